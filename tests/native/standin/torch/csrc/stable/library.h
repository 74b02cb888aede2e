// A stand-in for PyTorch's header of this name: ops are registered as plain functions, by name.
#pragma once

#include <map>
#include <string>
#include <torch/csrc/stable/ops.h>
#include <typeindex>

namespace torch::stable {

struct Op {
    void (*function)();
    std::type_index type;
};

class Library {
 public:
    void def(const char*) {}  // schemas are for PyTorch
    void impl(const char* name, Op op) { ops().emplace(name, op); }
    static std::map<std::string, Op>& ops() {
        static std::map<std::string, Op> all;
        return all;
    }
};

template <class R, class... A>
Op box(R (*function)(A...)) {
    return {reinterpret_cast<void (*)()>(function), typeid(R (*)(A...))};
}

}  // namespace torch::stable

#define TORCH_BOX(FUNCTION) ::torch::stable::box(FUNCTION)
#define GM_STANDIN_JOIN_(A, B) A##B
#define GM_STANDIN_JOIN(A, B) GM_STANDIN_JOIN_(A, B)
#define GM_STANDIN_REGISTER(M, NUMBER)                                         \
    static void GM_STANDIN_JOIN(register_, NUMBER)(::torch::stable::Library&); \
    static const bool GM_STANDIN_JOIN(registered_, NUMBER) = [] {              \
        ::torch::stable::Library library;                                      \
        GM_STANDIN_JOIN(register_, NUMBER)(library);                           \
        return true;                                                           \
    }();                                                                       \
    static void GM_STANDIN_JOIN(register_, NUMBER)([[maybe_unused]] ::torch::stable::Library & M)
#define STABLE_TORCH_LIBRARY(NAMESPACE, M) GM_STANDIN_REGISTER(M, __COUNTER__)
#define STABLE_TORCH_LIBRARY_FRAGMENT(NAMESPACE, M) GM_STANDIN_REGISTER(M, __COUNTER__)
#define STABLE_TORCH_LIBRARY_IMPL(NAMESPACE, KEY, M) GM_STANDIN_REGISTER(M, __COUNTER__)
