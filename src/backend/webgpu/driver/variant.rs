//! The variants of the shaders, and the choice among those that an adapter can run.
//!
//! All variants compute the same ops from the same files. They differ in the operands of matrix
//! products and in how a workgroup reduces: by a tree in workgroup memory, or by subgroup
//! operations where the adapter has them. Norms, softmax, sums and latents are F32 in every
//! variant.

/// The shaders to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Shaders {
    /// The fastest that the adapter can run.
    #[default]
    Best,
    /// Shaders for every WebGPU adapter and browser: F32 products, no subgroup operations.
    Plain,
    /// The plain shaders within WebGPU's default limits, which every page gets: bindings of 128
    /// MiB, buffers of 256 MiB, and 8 storage buffers a shader. They show on a large GPU what runs
    /// on a small one.
    DefaultLimits,
    /// F32 products for adapters that compute on the processor, where workgroup memory and barriers
    /// are slow.
    Direct,
    /// Products of F16 operands with F32 sums on the GPU's ordinary units, with subgroup operations
    /// where the adapter has them. No browser offers those.
    Half,
    /// Products of F16 operands with F32 sums on cooperative matrices (tensor cores and their
    /// like), with subgroup operations. Vulkan only: naga 30 cannot write them as HLSL, and its MSL
    /// for them does not compile.
    Cooperative,
}

/// The choice for [`Shaders`] on an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Plain,
    Direct,
    Half(Reduction),
    Cooperative(Cooperative),
}

/// A reduction over a workgroup's threads: the sums of norms, the largest magnitude of an
/// activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    /// A tree in workgroup memory, with a barrier at each level.
    Tree,
    /// Subgroup operations, and one pass through workgroup memory across subgroups of any size.
    Subgroups,
}

impl Reduction {
    pub(crate) const ALL: [Reduction; 2] = [Reduction::Tree, Reduction::Subgroups];
}

/// An adapter's cooperative matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cooperative {
    /// Rows, columns and depth of a matrix.
    pub side: usize,
    /// Invocations in a subgroup, which share a matrix.
    pub lanes: usize,
    /// Bytes of workgroup memory.
    pub memory: usize,
}

impl Cooperative {
    /// The kinds that the shaders are written and tested for: NVIDIA's, and those of Mesa's
    /// software Vulkan.
    pub(crate) const KNOWN: [Cooperative; 2] =
        [Cooperative { side: 16, lanes: 32, memory: 48 << 10 }, Cooperative { side: 8, lanes: 8, memory: 32 << 10 }];

    const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// The known kind that an adapter has, if any. Vulkan only: naga's Metal loads matrices from
    /// arrays of scalars alone.
    fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        let info = adapter.get_info();
        if info.backend != wgpu::Backend::Vulkan || !adapter.features().contains(Self::FEATURES) {
            return None;
        }
        let sides: Vec<u32> = adapter
            .cooperative_matrix_properties()
            .iter()
            .filter(|kind| kind.ab_type == wgpu::CooperativeScalarType::F16)
            .filter(|kind| kind.cr_type == wgpu::CooperativeScalarType::F32)
            .filter(|kind| kind.m_size == kind.n_size && kind.n_size == kind.k_size)
            .map(|kind| kind.m_size)
            .collect();
        let known = Self::KNOWN.into_iter().find(|known| {
            // A driver that may choose the subgroup size may choose one that the shaders do not
            // expect.
            let lanes = known.lanes as u32;
            sides.contains(&(known.side as u32)) && info.subgroup_min_size == lanes && info.subgroup_max_size == lanes
        })?;
        Some(Self { memory: adapter.limits().max_compute_workgroup_storage_size as usize, ..known })
    }
}

impl Variant {
    /// The variant for `shaders` on `adapter`, or a sentence that names what the adapter lacks.
    pub(super) fn choose(shaders: Shaders, adapter: &wgpu::Adapter) -> Result<Self, String> {
        let features = adapter.features();
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        let reduction = if subgroups { Reduction::Subgroups } else { Reduction::Tree };
        let half = features.contains(wgpu::Features::SHADER_F16).then_some(Variant::Half(reduction));
        let cooperative = Cooperative::of(adapter).map(Variant::Cooperative);
        let lacks = |what: &str| format!("{} has no {what}", adapter.get_info().name);
        match shaders {
            Shaders::Best => Ok(Self::best(adapter.get_info().device_type, cooperative.or(half))),
            Shaders::Plain | Shaders::DefaultLimits => Ok(Variant::Plain),
            Shaders::Direct => Ok(Variant::Direct),
            Shaders::Half => half.ok_or_else(|| lacks("F16 in shaders")),
            Shaders::Cooperative => {
                cooperative.ok_or_else(|| lacks("cooperative matrices of F16 with F32 sums that the shaders know"))
            }
        }
    }

    /// The fastest variant on a device of this type, where `f16` is its fastest with F16 operands.
    /// Software Vulkan converts F16 one by one, so F32 is faster there, and more exact.
    fn best(device: wgpu::DeviceType, f16: Option<Self>) -> Self {
        match device {
            wgpu::DeviceType::Cpu => Variant::Direct,
            _ => f16.unwrap_or(Variant::Plain),
        }
    }

    /// Whether its matrix products have F16 operands.
    pub(crate) fn f16(self) -> bool {
        !matches!(self, Variant::Plain | Variant::Direct)
    }

    /// The features that the device must be opened with.
    pub(super) fn features(self) -> wgpu::Features {
        match self {
            Variant::Plain | Variant::Direct => wgpu::Features::empty(),
            Variant::Half(Reduction::Tree) => wgpu::Features::SHADER_F16,
            Variant::Half(Reduction::Subgroups) => wgpu::Features::SHADER_F16.union(wgpu::Features::SUBGROUP),
            Variant::Cooperative(_) => Cooperative::FEATURES,
        }
    }

    /// The reduction of its workgroups.
    pub(crate) fn reduction(self) -> Reduction {
        match self {
            Variant::Plain | Variant::Direct => Reduction::Tree,
            Variant::Half(reduction) => reduction,
            Variant::Cooperative(_) => Reduction::Subgroups,
        }
    }

    /// A description for the user.
    pub(crate) fn name(self) -> String {
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
    fn software_adapters_run_direct_shaders() {
        let half = Variant::Half(Reduction::Tree);
        for f16 in [None, Some(half), Some(Variant::Cooperative(Cooperative::KNOWN[1]))] {
            assert_eq!(Variant::best(wgpu::DeviceType::Cpu, f16), Variant::Direct);
            assert_eq!(Variant::best(wgpu::DeviceType::IntegratedGpu, f16), f16.unwrap_or(Variant::Plain));
        }
    }
}
