//! The Rust twins of the shaders' `Params`.

use bytemuck::Pod;

/// A field of a `Params`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name, the same in WGSL.
    pub name: &'static str,
    /// The type, spelled the same in WGSL.
    pub ty: &'static str,
    /// Bytes in front of it.
    pub offset: usize,
}

/// A struct that is a shader's `Params`, field by field.
pub(crate) trait Uniform: Pod {
    /// The fields in order, 4 bytes each.
    const FIELDS: &'static [Field];
}

/// A shader without fields of its own.
impl Uniform for () {
    const FIELDS: &'static [Field] = &[];
}

/// The fields of a `Params` that has those of `A`, then those of `B`.
pub(crate) fn joined<A: Uniform, B: Uniform>() -> Vec<Field> {
    let behind = B::FIELDS.iter().map(|field| Field { offset: size_of::<A>() + field.offset, ..*field });
    A::FIELDS.iter().copied().chain(behind).collect()
}

/// Defines a struct of `u32`, `i32` and `f32` fields that is a [`Uniform`].
macro_rules! uniform {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident { $($field:ident: $ty:ident,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        $visibility struct $name {
            $($field: $ty,)*
        }

        impl $crate::backend::webgpu::launch::uniform::Uniform for $name {
            const FIELDS: &'static [$crate::backend::webgpu::launch::uniform::Field] = &[
                $($crate::backend::webgpu::launch::uniform::Field {
                    name: stringify!($field),
                    ty: stringify!($ty),
                    offset: std::mem::offset_of!($name, $field),
                },)*
            ];
        }
    };
}
pub(crate) use uniform;
