// The NVRTC API on the host's C++ compiler. A program is preprocessed and its kernels are found;
// prelude, program and a table of the kernels become a shared library, whose bytes are the "cubin".

#include "exports.h"
#include "runtime.h"
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <regex>
#include <spawn.h>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

// The sources that are compiled with every kernel; the build passes their folder to the assembler.
#define EMBED(name, file)                                                                                             \
    asm(".pushsection .rodata\n" #name ": .incbin \"" file "\"\n.byte 0\n.popsection");                               \
    extern "C" const char name[] __attribute__((visibility("hidden")));
EMBED(emulated_cuda_runtime_text, "runtime.h")
EMBED(emulated_cuda_prelude_text, "prelude.h")
// The headers that replace those with PTX, under the same names.
#define HEADERS(header)                                                                                               \
    header(convert, "common/ptx/convert.cuh") header(cp_async, "common/ptx/cp_async.cuh")                             \
    header(mma, "common/ptx/mma.cuh") header(barrier, "sm90/ptx/barrier.cuh") header(box, "sm90/ptx/box.cuh")         \
    header(cluster, "sm90/ptx/cluster.cuh") header(pdl, "sm90/ptx/pdl.cuh") header(tma, "sm90/ptx/tma.cuh")           \
    header(stmatrix, "sm90/ptx/stmatrix.cuh") header(wgmma, "sm90/ptx/wgmma.cuh")
#define EMBED_HEADER(name, file) EMBED(emulated_cuda_##name##_text, file)
HEADERS(EMBED_HEADER)

namespace {

struct Header {
    const char *name, *text;
};
#define HEADER(name, file) {file, emulated_cuda_##name##_text},
const Header headers[] = {HEADERS(HEADER)};

enum Result { success = 0, program_failure = 2, invalid_input = 3, invalid_program = 4, invalid_option = 5, compilation = 6,
              no_expression = 8, internal = 11 };

struct Program {
    std::string name, source, log, image;
    std::vector<std::pair<std::string, std::string>> headers, lowered;
    std::vector<std::string> expressions;
    /// True if machine code was requested (sm_…), not only PTX (compute_…).
    bool real = false;
};

std::string read(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::filesystem::path &path, const std::string &text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

/// A temporary folder that is removed at the end of its scope.
struct Folder {
    std::filesystem::path path;
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "emulated-cuda-XXXXXX").string();
        if (mkdtemp(name.data())) path = name;
    }
    ~Folder() {
        std::error_code ignored;
        if (!path.empty()) std::filesystem::remove_all(path, ignored);
    }
};

/// Runs the compiler in `folder` and appends its output to `log`.
bool run_compiler(const std::vector<std::string> &arguments, const Folder &folder, std::string &log) {
    const char *chosen = std::getenv("CXX");
    std::vector<std::string> all{chosen && *chosen ? chosen : "g++"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<char *> argv;
    for (std::string &argument : all) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::string said = folder.path / "log";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, said.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t child;
    int error = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ), status = 1;
    posix_spawn_file_actions_destroy(&actions);
    if (error) log += all[0] + " cannot be started: " + std::strerror(error) + "\n";
    else waitpid(child, &status, 0), log += read(said);
    return !error && status == 0;
}

/// The compiler's form of the options that NVRTC shares with it; false for an unknown option.
bool translate(const std::vector<std::string> &options, std::vector<std::string> &out, Program &program) {
    std::string architecture;
    for (std::size_t i = 0; i < options.size(); i++) {
        const std::string &option = options[i];
        auto value = [&](std::initializer_list<const char *> names, std::string &found) {
            for (std::string name : names) {
                if (option.starts_with(name + "=")) return found = option.substr(name.size() + 1), true;
                if (option == name && i + 1 < options.size()) return found = options[++i], true;
            }
            return false;
        };
        std::string found;
        if (value({"--gpu-architecture", "-arch"}, architecture)) continue;
        if (value({"--define-macro", "-D"}, found)) out.push_back("-D" + found);
        else if (option.starts_with("-D")) out.push_back(option);
        else if (value({"--std", "-std"}, found)) {
            // The prelude needs C++17, which is also what NVRTC assumes.
            if (found != "c++17") return program.log = "only --std=c++17 is emulated\n", false;
        } else if (value({"--use_fast_math", "-use_fast_math", "--fmad", "-fmad", "--ftz", "-ftz", "--prec-div", "-prec-div",
                          "--prec-sqrt", "-prec-sqrt", "--maxrregcount", "-maxrregcount", "--ptxas-options", "-Xptxas"}, found) ||
                   option == "-lineinfo" || option == "--generate-line-info" || option == "-default-device" ||
                   option == "--device-as-default-execution-space") continue;
        else return program.log = "unrecognized option " + option + "\n", false;
    }
    std::smatch parts;
    if (architecture.empty()) architecture = "compute_75";
    if (!std::regex_match(architecture, parts, std::regex("(sm|compute)_([0-9]+)([af]?)")))
        return program.log = "invalid value for --gpu-architecture: " + architecture + "\n", false;
    program.real = parts[1] == "sm";
    out.push_back("-D__CUDA_ARCH__=" + parts[2].str() + "0");
    return true;
}

/// The position of the parenthesis that closes the one at `at`.
std::size_t closing(const std::string &text, std::size_t at) {
    int depth = 0;
    for (; at < text.size(); at++) {
        if (text[at] == '(') depth++;
        if (text[at] == ')' && --depth == 0) return at;
    }
    return std::string::npos;
}

/// The rows of the kernel table: every `__global__` function that is not a template, with its
/// launch bounds and its cluster.
std::vector<std::string> kernels(const std::string &text) {
    std::vector<std::string> names, rows;
    const std::string mark = "__global__";
    for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at)) {
        std::size_t start = text.find_last_of(";}", at);
        bool is_template = text.substr(start + 1, at - start - 1).find("template") != std::string::npos;
        std::string word, bounds = "1024", cluster = "1";
        for (at += mark.size(); at < text.size(); at++) {
            unsigned char c = text[at];
            if (std::isalnum(c) || c == '_') {
                if (at && !(std::isalnum((unsigned char)text[at - 1]) || text[at - 1] == '_')) word.clear();
                word += char(c);
            } else if (c == '(' && (word == "__launch_bounds__" || word == "__cluster_dims__")) {
                std::size_t end = closing(text, at);
                (word == "__cluster_dims__" ? cluster : bounds) = text.substr(at + 1, end - at - 1);
                at = end;
            } else if (c == '(' || c == ';') break;
        }
        // A declaration and its definition are the same kernel.
        if (is_template || std::find(names.begin(), names.end(), word) != names.end()) continue;
        names.push_back(word);
        rows.push_back("emulated_cuda::entry<&" + word + ">(emulated_cuda::first(" + bounds + "), emulated_cuda::blocks_of(" +
                       cluster + "))");
    }
    return rows;
}

int compile(Program &program, const std::vector<std::string> &options) {
    std::vector<std::string> defines{"-D__CUDACC_RTC__", "-D__CUDACC__"};
    if (!translate(options, defines, program)) return invalid_option;
    Folder folder;
    if (folder.path.empty()) return program.log = "no temporary folder can be made\n", internal;
    std::string source = folder.path / "program.cpp", expanded = folder.path / "expanded.cpp", whole = folder.path / "whole.cpp",
                library = folder.path / "library.so";
    write(source, "#line 1 \"" + program.name + "\"\n" + program.source);
    for (const auto &[name, text] : program.headers) write(folder.path / "include" / name, text);
    for (const Header &header : headers) write(folder.path / "include" / header.name, header.text);
    std::vector<std::string> arguments{"-E", "-x", "c++", "-std=c++17", "-nostdinc", "-I" + (folder.path / "include").string(),
                                       source, "-o", expanded};
    arguments.insert(arguments.end(), defines.begin(), defines.end());
    if (!run_compiler(arguments, folder, program.log)) return compilation;

    // Macros cannot translate an array without a size to C++, so a regex does. The lambda is
    // invalid outside a function.
    static const std::regex dynamic(R"(extern\s+__shared__\s+(?:(?:__align__|alignas)\s*\([^)]*\)\s*)?([\w:<>\s]+?)\s+(\w+)\s*\[\s*\]\s*;)");
    std::string text = std::regex_replace(read(expanded), dynamic,
        "$1 *const $2 = [&] { return static_cast<$1 *>(emulated_cuda_current->dynamic_shared); }();");
    std::vector<std::string> rows = kernels(text);
    for (const std::string &expression : program.expressions)
        rows.push_back("emulated_cuda::entry<" + std::string(expression.front() == '&' ? "" : "&") + expression + ">(1024, 1)");
    std::ostringstream unit;
    unit << "#line 1 \"runtime.h\"\n" << emulated_cuda_runtime_text << "#line 1 \"prelude.h\"\n" << emulated_cuda_prelude_text
         << text << "\n#line 1 \"kernels of the module\"\n"
         << "extern \"C\" __attribute__((visibility(\"default\"))) const emulated_cuda::Kernel emulated_cuda_kernels[] = {";
    for (const std::string &row : rows) unit << "\n    " << row << ",";
    unit << "\n    {nullptr, nullptr, nullptr, 0, 0, 0}};\n";
    write(whole, unit.str());
    arguments = {"-x", "c++", "-std=c++17", "-O2", "-march=native", "-fPIC", "-shared", "-nostdlib", "-fno-exceptions", "-fno-rtti",
                 "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", "-fno-gnu-unique", "-fno-threadsafe-statics",
                 "-fvisibility=hidden", "-Wl,-Bsymbolic", "-w", "-fsanitize=alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero",
                 "-fno-sanitize-recover=all", whole, "-o", library, "-lm", "-lc", "-lgcc"};
    if (!run_compiler(arguments, folder, program.log)) return compilation;
    program.image = read(library);

    // A template instance's name in the module is its symbol, in the order of the table's last
    // rows.
    if (!program.expressions.empty()) {
        void *loaded = dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
        auto table = loaded ? static_cast<emulated_cuda::Kernel *>(dlsym(loaded, "emulated_cuda_kernels")) : nullptr;
        if (!table) return program.log += dlerror(), internal;
        std::size_t first = rows.size() - program.expressions.size();
        for (std::size_t i = 0; i < program.expressions.size(); i++) {
            Dl_info symbol{};
            dladdr(reinterpret_cast<void *>(table[first + i].function), &symbol);
            program.lowered.emplace_back(program.expressions[i], symbol.dli_sname ? symbol.dli_sname : "");
        }
        dlclose(loaded);
    }
    return success;
}

__attribute__((constructor)) void hide_functions() {
    static int inside;
    emulated_cuda::hide_named(emulated_cuda::library_of(&inside));
}

} // namespace

#define API extern "C" __attribute__((visibility("default"))) int

/// The minor version is a hash of the sources, so that a program's cubin cache does not mix this
/// emulation with NVIDIA's compiler or with another version of itself.
API nvrtcVersion(int *major, int *minor) {
    unsigned hash = 2166136261;
    auto add = [&](const char *text) {
        for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 16777619;
    };
    add(emulated_cuda_runtime_text), add(emulated_cuda_prelude_text);
    for (const Header &header : headers) add(header.text);
    return *major = 13, *minor = int(1000 + hash % 1000000), success;
}

API nvrtcCreateProgram(Program **out, const char *source, const char *name, int headers, const char *const *texts,
                       const char *const *names) {
    if (!out || !source) return invalid_input;
    auto program = new Program;
    program->source = source;
    program->name = name ? name : "default_program";
    for (int i = 0; i < headers; i++) program->headers.emplace_back(names[i], texts[i]);
    return *out = program, success;
}
API nvrtcDestroyProgram(Program **program) {
    if (!program || !*program) return invalid_program;
    delete *program;
    return *program = nullptr, success;
}
API nvrtcAddNameExpression(Program *program, const char *expression) {
    return program->expressions.emplace_back(expression), success;
}
API nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    program->log.clear();
    return compile(*program, {options, options + count});
}
API nvrtcGetLoweredName(Program *program, const char *expression, const char **out) {
    for (const auto &[name, lowered] : program->lowered)
        if (name == expression) return *out = lowered.c_str(), success;
    return no_expression;
}

API nvrtcGetProgramLogSize(Program *program, std::size_t *bytes) { return *bytes = program->log.size() + 1, success; }
API nvrtcGetProgramLog(Program *program, char *out) {
    return std::memcpy(out, program->log.c_str(), program->log.size() + 1), success;
}
API nvrtcGetCUBINSize(Program *program, std::size_t *bytes) { return *bytes = program->real ? program->image.size() : 0, success; }
API nvrtcGetCUBIN(Program *program, char *out) {
    if (!program->real || program->image.empty()) return invalid_program;
    return std::memcpy(out, program->image.data(), program->image.size()), success;
}
// PTX is the same image, because cuModuleLoadData also accepts PTX.
API nvrtcGetPTXSize(Program *program, std::size_t *bytes) { return *bytes = program->image.size(), success; }
API nvrtcGetPTX(Program *program, char *out) {
    if (program->image.empty()) return invalid_program;
    return std::memcpy(out, program->image.data(), program->image.size()), success;
}

extern "C" __attribute__((visibility("default"))) const char *nvrtcGetErrorString(int code) {
    switch (code) {
    case success: return "NVRTC_SUCCESS";
    case program_failure: return "NVRTC_ERROR_PROGRAM_CREATION_FAILURE";
    case invalid_input: return "NVRTC_ERROR_INVALID_INPUT";
    case invalid_program: return "NVRTC_ERROR_INVALID_PROGRAM";
    case invalid_option: return "NVRTC_ERROR_INVALID_OPTION";
    case compilation: return "NVRTC_ERROR_COMPILATION";
    case no_expression: return "NVRTC_ERROR_NO_LOWERED_NAMES_BEFORE_COMPILATION";
    default: return "NVRTC_ERROR_INTERNAL_ERROR";
    }
}
