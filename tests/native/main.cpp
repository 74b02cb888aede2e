// The compiled ops without PyTorch: each case on one thread and on several, whose results must be the same bits, and a
// checksum of them that another processor's can be held to. Built for the thread sanitizer, and for other processors.
//
//     gmkern_native [--threads N] [--promised] [--race] [part of a case's name ...]
//
//   --threads N   how many threads the second run of a case has (4)
//   --promised    only cases whose bits are promised on every instruction set and processor
//   --race        nothing but two threads that write one number: the thread sanitizer must say so
#include <cstdio>
#include <cstring>

#include "cases.h"
#include "common/isa.h"

namespace gm::native {
namespace {

uint64_t checksum(const std::vector<Tensor>& tensors) {  // FNV-1a
    uint64_t hash = 0xcbf29ce484222325u;
    for (const Tensor& t : tensors) {
        const auto* bytes = static_cast<const unsigned char*>(t.const_data_ptr());
        for (size_t i = 0; i < static_cast<size_t>(t.numel()) * t.element_size(); ++i)
            hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

int race() {
    int64_t number = 0;
    torch::stable::Threads::all().count = 2;
    torch::stable::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) { number += end - begin; });
    std::printf("%d\n", static_cast<int>(number));
    return 0;
}

// What is wrong with a case, or null.
const char* run(const Case& one, uint32_t threads) {
    auto& all = torch::stable::Threads::all();
    all.count = 1;
    const uint64_t alone = checksum(one.run());
    all.count = threads;
    all.regions = 0;
    const uint64_t together = checksum(one.run());
    std::printf("%016llx  %-8s  %s\n", static_cast<unsigned long long>(alone),
                one.bits == Bits::promised ? "promised" : "own", one.name.c_str());
    std::fflush(stdout);
    if (together != alone) return "gives other bits on several threads";
    if (threads > 1 && all.regions == 0) return "never ran on several threads";
    return nullptr;
}

int main_of(int count, char** words) {
    uint32_t threads = 4;
    bool promised = false;
    std::vector<std::string> parts;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word == "--race") return race();
        if (word == "--promised")
            promised = true;
        else if (word == "--threads" && i + 1 < count)
            threads = static_cast<uint32_t>(std::stoul(words[++i]));
        else
            parts.push_back(word);
    }
    std::fprintf(stderr, "%s, %u threads\n", isa_name(isa()), threads);
    int ran = 0, failed = 0;
    for (const Case& one : cases()) {
        bool wanted = parts.empty() && (!promised || one.bits == Bits::promised);
        for (const std::string& part : parts) wanted = wanted || one.name.find(part) != std::string::npos;
        if (!wanted) continue;
        ++ran;
        const char* wrong = nullptr;
        try {
            wrong = run(one, threads);
        } catch (const std::exception& error) {
            wrong = error.what();
        }
        if (wrong == nullptr) continue;
        ++failed;
        std::printf("FAILED: %s: %s\n", one.name.c_str(), wrong);
    }
    std::fprintf(stderr, "%d cases, %d failed\n", ran, failed);
    return ran == 0 || failed > 0;
}

}  // namespace
}  // namespace gm::native

int main(int count, char** words) { return gm::native::main_of(count, words); }
