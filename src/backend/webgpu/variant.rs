//! The variants of the shaders, and which of them an adapter can run.
//!
//! All compute the same verbs from the same files; they differ in what the products multiply, and in how a workgroup sums:
//! by a tree in workgroup memory, or by subgroup operations where the adapter has them. Norms, softmax, sums and the latents
//! are F32 in each of them.

use super::program::{File, wgsl};
use super::reduction::Reduction;

/// Which shaders to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Shaders {
    /// The fastest that the adapter can run.
    #[default]
    Best,
    /// What every WebGPU adapter runs, a browser's worst included: products of F32, no subgroup operations.
    Plain,
    /// The same products for adapters that compute on the processor, to which workgroup memory and barriers are dear.
    Direct,
    /// Products of F16 operands with F32 sums, in the ordinary units of the GPU; subgroup operations where the adapter has
    /// them, which no browser says that it has.
    Half,
    /// Products of F16 operands with F32 sums on cooperative matrices, tensor cores and their kin, and subgroup operations.
    /// Only through Vulkan: naga 30 cannot write them as HLSL, and what it writes as MSL does not compile.
    Cooperative,
}

/// What [`Shaders`] came down to on an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Plain,
    Direct,
    Half(Reduction),
    Cooperative(Cooperative),
}

/// Cooperative matrices as an adapter has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cooperative {
    /// Rows, columns and depth of a matrix.
    pub side: usize,
    /// Invocations in a subgroup, which share a matrix.
    pub lanes: usize,
    /// Bytes of workgroup memory.
    pub memory: usize,
}

impl Cooperative {
    /// The kinds that the shaders are written and tested for: NVIDIA's, and those of Mesa's software Vulkan.
    pub(super) const KNOWN: [Cooperative; 2] =
        [Cooperative { side: 16, lanes: 32, memory: 48 << 10 }, Cooperative { side: 8, lanes: 8, memory: 32 << 10 }];

    const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// Those of an adapter, if it has some that are known. Only through Vulkan: the Metal that naga writes loads
    /// matrices from arrays of scalars alone.
    fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        let info = adapter.get_info();
        if info.backend != wgpu::Backend::Vulkan || !adapter.features().contains(Self::FEATURES) {
            return None;
        }
        let halves = wgpu::CooperativeScalarType::F16;
        let sides: Vec<u32> = adapter
            .cooperative_matrix_properties()
            .iter()
            .filter(|kind| kind.ab_type == halves && kind.cr_type == wgpu::CooperativeScalarType::F32)
            .filter(|kind| kind.m_size == kind.n_size && kind.n_size == kind.k_size)
            .map(|kind| kind.m_size)
            .collect();
        let known = Self::KNOWN.into_iter().find(|known| {
            // A driver that may choose the size of a subgroup may choose another one than the shaders count on.
            let lanes = known.lanes as u32;
            sides.contains(&(known.side as u32)) && info.subgroup_min_size == lanes && info.subgroup_max_size == lanes
        })?;
        Some(Self { memory: adapter.limits().max_compute_workgroup_storage_size as usize, ..known })
    }

    /// The file that names its types.
    pub(super) fn file(self) -> File {
        if self.side == 16 { wgsl!("cooperative_16") } else { wgsl!("cooperative_8") }
    }
}

impl Variant {
    /// What `shaders` come down to on `adapter`, or a sentence on what it lacks.
    pub(super) fn choose(shaders: Shaders, adapter: &wgpu::Adapter) -> Result<Self, String> {
        let features = adapter.features();
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        let reduction = if subgroups { Reduction::Subgroups } else { Reduction::Tree };
        let half = features.contains(wgpu::Features::SHADER_F16).then_some(Variant::Half(reduction));
        let cooperative = Cooperative::of(adapter).map(Variant::Cooperative);
        let lacks = |what: &str| format!("{} has no {what}", adapter.get_info().name);
        match shaders {
            Shaders::Best => Ok(Self::best(adapter.get_info().device_type, cooperative.or(half))),
            Shaders::Plain => Ok(Variant::Plain),
            Shaders::Direct => Ok(Variant::Direct),
            Shaders::Half => half.ok_or_else(|| lacks("F16 in shaders")),
            Shaders::Cooperative => {
                cooperative.ok_or_else(|| lacks("cooperative matrices of F16 with F32 sums that the shaders know"))
            }
        }
    }

    /// The fastest on an adapter of this type, where `halves` is the fastest that multiplies halves, if there is one. A
    /// processor that takes the place of a GPU converts halves one by one, so F32 is faster on it, and closer.
    fn best(device: wgpu::DeviceType, halves: Option<Self>) -> Self {
        match device {
            wgpu::DeviceType::Cpu => Variant::Direct,
            _ => halves.unwrap_or(Variant::Plain),
        }
    }

    /// Whether its products multiply halves.
    pub(super) fn halves(self) -> bool {
        !matches!(self, Variant::Plain | Variant::Direct)
    }

    /// What the device has to be opened with.
    pub(super) fn features(self) -> wgpu::Features {
        match self {
            Variant::Plain | Variant::Direct => wgpu::Features::empty(),
            Variant::Half(Reduction::Tree) => wgpu::Features::SHADER_F16,
            Variant::Half(Reduction::Subgroups) => wgpu::Features::SHADER_F16.union(wgpu::Features::SUBGROUP),
            Variant::Cooperative(_) => Cooperative::FEATURES,
        }
    }

    /// How its workgroups bring values together.
    pub(super) fn reduction(self) -> Reduction {
        match self {
            Variant::Plain | Variant::Direct => Reduction::Tree,
            Variant::Half(reduction) => reduction,
            Variant::Cooperative(_) => Reduction::Subgroups,
        }
    }

    /// In words, for the user.
    pub(super) fn name(self) -> String {
        match self {
            Variant::Plain => "plain shaders".into(),
            Variant::Direct => "shaders for the processor".into(),
            Variant::Half(Reduction::Tree) => "F16 shaders without subgroup operations".into(),
            Variant::Half(Reduction::Subgroups) => "F16 shaders with subgroup operations".into(),
            Variant::Cooperative(Cooperative { side, .. }) => {
                format!("cooperative matrices of {side}×{side} with subgroup operations")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_gets_direct_shaders_whatever_else_it_has() {
        let half = Variant::Half(Reduction::Tree);
        for halves in [None, Some(half), Some(Variant::Cooperative(Cooperative::KNOWN[1]))] {
            assert_eq!(Variant::best(wgpu::DeviceType::Cpu, halves), Variant::Direct);
            assert_eq!(Variant::best(wgpu::DeviceType::IntegratedGpu, halves), halves.unwrap_or(Variant::Plain));
        }
    }
}
