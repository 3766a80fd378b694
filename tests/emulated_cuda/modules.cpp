#include "modules.h"
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emulated_cuda {
namespace {

/// The size of the thread-local variables declared in the function `name`, found by their mangled
/// names.
std::size_t locals_of(const std::string &name, const char *image) {
    std::string prefix = "_ZZ" + (name.starts_with("_Z") ? name.substr(2) : std::to_string(name.size()) + name) + "E";
    auto header = reinterpret_cast<const Elf64_Ehdr *>(image);
    auto sections = reinterpret_cast<const Elf64_Shdr *>(image + header->e_shoff);
    std::size_t bytes = 0;
    for (unsigned i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        auto symbols = reinterpret_cast<const Elf64_Sym *>(image + sections[i].sh_offset);
        const char *names = image + sections[sections[i].sh_link].sh_offset;
        for (std::size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++)
            if (ELF64_ST_TYPE(symbols[s].st_info) == STT_TLS &&
                std::string(names + symbols[s].st_name).starts_with(prefix))
                bytes += symbols[s].st_size;
    }
    return bytes;
}

} // namespace

Module::~Module() {
    if (library) dlclose(library);
    if (file >= 0) close(file);
}

std::unique_ptr<Module> Module::load(const void *image, std::string *why) {
    Elf64_Ehdr header;
    std::memcpy(&header, image, sizeof header);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_type != ET_DYN) {
        *why = "the image was not made by the emulated compiler";
        return nullptr;
    }
    auto module = std::make_unique<Module>();
    // The section headers are at the end of the file.
    std::size_t bytes = header.e_shoff + std::size_t(header.e_shnum) * header.e_shentsize;
    module->file = memfd_create("module", MFD_CLOEXEC);
    for (std::size_t written = 0; written < bytes;) {
        ssize_t n = write(module->file, static_cast<const char *>(image) + written, bytes - written);
        if (n <= 0) {
            *why = "the image cannot be written to memory";
            return nullptr;
        }
        written += std::size_t(n);
    }
    // The file stays open: the loader identifies libraries by their paths, and would mistake
    // another file with the same descriptor number for this library.
    std::string path = "/proc/self/fd/" + std::to_string(module->file);
    module->library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!module->library) {
        *why = dlerror();
        return nullptr;
    }
    module->touch_shared = reinterpret_cast<void *(*)()>(dlsym(module->library, "emulated_cuda_touch_shared"));
    auto kernel = static_cast<const Kernel *>(dlsym(module->library, "emulated_cuda_kernels"));
    if (!module->touch_shared || !kernel) {
        *why = "the image exports no kernels";
        return nullptr;
    }
    auto segments = reinterpret_cast<const Elf64_Phdr *>(static_cast<const char *>(image) + header.e_phoff);
    for (unsigned i = 0; i < header.e_phnum; i++)
        if (segments[i].p_type == PT_TLS) module->shared_bytes = segments[i].p_memsz;
    for (; kernel->function; kernel++) {
        Dl_info symbol;
        if (!dladdr(reinterpret_cast<void *>(kernel->function), &symbol) || !symbol.dli_sname) {
            *why = "a kernel has no name";
            return nullptr;
        }
        std::size_t shared = locals_of(symbol.dli_sname, static_cast<const char *>(image));
        if (shared > default_shared) {
            *why = std::string(symbol.dli_sname) + " declares " + std::to_string(shared) + " bytes of shared memory";
            return nullptr;
        }
        unsigned left = default_shared - unsigned(shared);
        module->functions.push_back(
            std::make_unique<Function>(Function{module.get(), kernel, symbol.dli_sname, shared, left}));
    }
    return module;
}

Function *Module::find(const char *name) const {
    for (const auto &function : functions)
        if (function->name == name) return function.get();
    return nullptr;
}

StaticShared static_shared(const Module &module) {
    void *start = nullptr;
    module.touch_shared();
    dlinfo(module.library, RTLD_DI_TLS_DATA, &start);
    return {start, module.shared_bytes};
}

} // namespace emulated_cuda
