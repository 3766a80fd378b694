//! Errors of the CUDA driver as sentences.

use crate::error::{Error, MemoryKind};
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// The error for a device that cannot be opened.
pub(crate) fn not_opened(error: DriverError) -> Error {
    Error::Device(match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            "the NVIDIA driver sees no GPU; CUDA_VISIBLE_DEVICES hides those that it does not name".into()
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the NVIDIA driver in memory and its library are of different versions; restart the machine".into()
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "the NVIDIA GPU has no memory left to be opened: something else uses all of it (`nvidia-smi` shows what)"
                .into()
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "the NVIDIA GPU is another process's alone (`nvidia-smi` shows whose); end that or use another backend"
                .into()
        }
        _ => format!("the NVIDIA GPU cannot be opened: {}", words(error)),
    })
}

/// The error for a failed driver call; `what` names the op or the device.
pub(crate) fn fault(what: &str, error: DriverError) -> Error {
    use CUresult as R;
    let said = words(error);
    match error.0 {
        R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_ASSERT
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | R::CUDA_ERROR_INVALID_PC
        | R::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | R::CUDA_ERROR_CONTAINED
        | R::CUDA_ERROR_EXTERNAL_DEVICE
        | R::CUDA_ERROR_CONTEXT_IS_DESTROYED => Error::Lost(format!(
            "{what}: a kernel failed on the GPU ({said}), and with it went everything that this process had there; start \
             the program again"
        )),
        R::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::out_of_memory(MemoryKind::Activations, format!("{what}: the GPU's memory is full"))
        }
        R::CUDA_ERROR_NO_BINARY_FOR_GPU | R::CUDA_ERROR_INVALID_IMAGE | R::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            Error::Device(format!(
                "{what}: the NVIDIA driver does not take what the compiler library made ({said}); update the driver, or use \
                 the compiler library of an older CUDA"
            ))
        }
        _ => Error::Device(format!("{what}: the GPU refused: {said}")),
    }
}

/// The driver's description and name of an error.
fn words(error: DriverError) -> String {
    let said = error.error_string().map(|text| text.to_string_lossy().into_owned());
    let name = error.error_name().map(|text| text.to_string_lossy().into_owned());
    match (name, said) {
        (Ok(name), Ok(said)) => format!("{said}, {name}"),
        _ => format!("{:?}", error.0),
    }
}
