// Hides exports of an emulated library. dlsym does not find a hidden name, as if the library were
// of a version without it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <dlfcn.h>
#include <link.h>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace emulated_cuda {

/// The library that contains the address `inside`.
inline void *library_of(void *inside) {
    Dl_info info;
    return dladdr(inside, &info) ? dlopen(info.dli_fname, RTLD_NOLOAD | RTLD_NOW) : nullptr;
}

/// Hides a function of `library`: the loader treats a symbol without a value as undefined.
inline void hide(void *library, const char *name) {
    void *function = dlsym(library, name), *entry = nullptr;
    Dl_info info;
    if (!function || !dladdr1(function, &info, &entry, RTLD_DL_SYMENT) || !entry) return;
    auto &symbol = *static_cast<ElfW(Sym) *>(entry);
    std::uintptr_t page = sysconf(_SC_PAGESIZE), start = reinterpret_cast<std::uintptr_t>(entry) / page * page;
    std::size_t bytes = reinterpret_cast<std::uintptr_t>(&symbol + 1) - start;
    if (mprotect(reinterpret_cast<void *>(start), bytes, PROT_READ | PROT_WRITE)) std::abort();
    symbol.st_value = 0;
    mprotect(reinterpret_cast<void *>(start), bytes, PROT_READ);
}

/// Hides the functions listed in EMULATED_CUDA_HIDE, separated by commas.
inline void hide_named(void *library) {
    const char *names = std::getenv("EMULATED_CUDA_HIDE");
    std::istringstream text(names ? names : "");
    for (std::string name; std::getline(text, name, ',');) hide(library, name.c_str());
}

} // namespace emulated_cuda
