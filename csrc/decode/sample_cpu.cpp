#include <torch/csrc/stable/library.h>

#include <memory>
#include <optional>
#include <tuple>

#include "common/check.h"
#include "common/new_tensor.h"
#include "common/parallel.h"
#include "decode/sample.h"

namespace gm {
namespace {

using Optional = std::optional<Tensor>;

// The rows of logits [B, V] with what filters them, as views of the caller's tensors.
struct Rows {
    const char* logits;
    LogitType type;
    int64_t rows, vocab, row_stride, stride, element;
    const double* params;
    int64_t params_stride;
    const bool* mask = nullptr;
    int64_t mask_row_stride = 0, mask_stride = 0;
    const int64_t* history = nullptr;
    int64_t history_row_stride = 0, history_size = 0;

    Rows(const Tensor& logits, const Tensor& params, const Optional& mask, const Optional& history) {
        check_dim("logits", logits, 2);
        GM_CHECK(logits.is_cpu(), "logits: takes a CPU tensor");
        switch (logits.scalar_type()) {
            case ScalarType::Float:
                type = LogitType::fp32;
                break;
            case ScalarType::Double:
                type = LogitType::fp64;
                break;
            case ScalarType::BFloat16:
                type = LogitType::bf16;
                break;
            case ScalarType::Half:
                type = LogitType::fp16;
                break;
            default:
                fail("logits: takes float32, float64, bfloat16 or float16");
        }
        rows = logits.size(0);
        vocab = logits.size(1);
        row_stride = logits.stride(0);
        stride = logits.stride(1);
        element = type == LogitType::fp64 ? 8 : type == LogitType::fp32 ? 4 : 2;
        GM_CHECK(vocab >= 1 && vocab <= kSampleVocab, "logits: got shape ", shape_text(logits), "; takes 1 to ",
                 kSampleVocab, " tokens along axis 1");
        this->logits = static_cast<const char*>(logits.data_ptr());
        check_dim("params", params, 2);
        check_dtype("params", params, ScalarType::Double);
        check_contiguous_cpu("params", params);
        GM_CHECK(params.size(1) == kSampleParams && (params.size(0) == 1 || params.size(0) == rows),
                 "params: got shape ", shape_text(params), "; takes [1 or ", rows, ", ", kSampleParams, "]");
        this->params = params.const_data_ptr<double>();
        params_stride = params.size(0) == 1 ? 0 : kSampleParams;
        if (mask) {
            check_dim("mask", *mask, 2);
            check_dtype("mask", *mask, ScalarType::Bool);
            GM_CHECK(mask->is_cpu() && mask->size(0) == rows && mask->size(1) == vocab, "mask: got shape ",
                     shape_text(*mask), "; takes a CPU tensor of logits' shape ", shape_text(logits));
            this->mask = mask->const_data_ptr<bool>();
            mask_row_stride = mask->stride(0);
            mask_stride = mask->stride(1);
        }
        if (history) {
            check_dim("history", *history, 2);
            check_dtype("history", *history, ScalarType::Long);
            GM_CHECK(history->is_cpu() && history->size(0) == rows, "history: got shape ", shape_text(*history),
                     "; takes a CPU tensor [", rows, ", H]");
            GM_CHECK(rows == 0 || history->size(1) <= 1 || history->stride(1) == 1, "history: takes contiguous rows");
            this->history = history->const_data_ptr<int64_t>();
            history_row_stride = history->stride(0);
            history_size = history->size(1);
        }
    }

    SampleRow operator[](int64_t i) const {
        SampleRow row;
        row.logits = logits + i * row_stride * element;
        row.type = type;
        row.vocab = vocab;
        row.logits_stride = stride;
        if (mask != nullptr) row.mask = mask + i * mask_row_stride;
        row.mask_stride = mask_stride;
        if (history != nullptr) row.history = history + i * history_row_stride;
        row.history_size = history_size;
        const double* p = params + i * params_stride;
        row.params = {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]};
        return row;
    }

    // f(row index, room) over all rows; f returns a row's flaw, and the first row that has one becomes an error.
    template <class F>
    void for_each(const F& f) const {
        const std::unique_ptr<SampleFlaw[]> flaws(new SampleFlaw[static_cast<size_t>(rows)]);
        const int64_t bytes = sample_scratch_bytes(type, vocab);
        const int64_t grain = vocab >= 4096 ? 1 : (4096 + vocab) / (vocab + 1);
        parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
            const std::unique_ptr<char[]> room(new char[static_cast<size_t>(bytes) + 64]);
            char* aligned = room.get() + (64 - reinterpret_cast<uintptr_t>(room.get()) % 64) % 64;
            for (int64_t i = begin; i < end; ++i) flaws[static_cast<size_t>(i)] = f(i, aligned);
        });
        for (int64_t i = 0; i < rows; ++i) check_flaw(i, flaws[static_cast<size_t>(i)]);
    }
    void check_flaw(int64_t i, SampleFlaw flaw) const {
        switch (flaw) {
            case SampleFlaw::none:
                return;
            case SampleFlaw::not_finite:
                fail("logits: row ", i, " holds NaN or +inf, or passes the largest number when divided by its ",
                     "temperature; takes finite logits or -inf");
            case SampleFlaw::no_legal_token:
                fail("logits: row ", i, " has no legal token (all are -inf or masked); takes at least one");
            case SampleFlaw::token_out_of_range:
                fail("tokens: got an id outside the vocabulary in row ", i, "; takes 0 to ", vocab - 1);
            case SampleFlaw::bad_params:
                fail("params: row ", i,
                     " is out of range; takes finite temperature >= 0, top_k >= 0, top_p, min_p and ",
                     "typical_p and epsilon in [0, 1], finite repetition_penalty > 0, finite presence and frequency "
                     "penalties");
        }
    }
    ScalarType real() const { return type == LogitType::fp64 ? ScalarType::Double : ScalarType::Float; }
};

// A tensor [B] of the arithmetic's precision, written from doubles that it holds exactly.
struct Reals {
    Tensor tensor;
    float* fp32 = nullptr;
    double* fp64 = nullptr;

    Reals(int64_t rows, ScalarType dtype) : tensor(new_tensor({rows}, dtype)) {
        if (dtype == ScalarType::Double)
            fp64 = tensor.mutable_data_ptr<double>();
        else
            fp32 = tensor.mutable_data_ptr<float>();
    }
    void set(int64_t i, double value) const {
        if (fp64 != nullptr)
            fp64[i] = value;
        else
            fp32[i] = static_cast<float>(value);
    }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> sample(const Tensor& logits, const Tensor& params, const Optional& mask,
                                                  const Optional& history, const Tensor& seed, const Tensor& sample_ids,
                                                  const Tensor& step) {
    const Rows rows(logits, params, mask, history);
    const PerRow seeds = per_row("seed", seed, rows.rows), steps = per_row("step", step, rows.rows);
    check_dim("sample_ids", sample_ids, 1);
    check_size("sample_ids", sample_ids, 0, rows.rows);
    const PerRow ids = per_row("sample_ids", sample_ids, rows.rows);
    Tensor tokens = new_tensor({rows.rows}, ScalarType::Long);
    int64_t* token = tokens.mutable_data_ptr<int64_t>();
    const Reals logprobs(rows.rows, rows.real()), raw(rows.rows, rows.real()), kept(rows.rows, rows.real());
    const SampleBody body = sample_body(rows.type);
    rows.for_each([&](int64_t i, void* room) {
        SampleRow row = rows[i];
        row.seed = seeds[i];
        row.id = ids[i];
        row.step = static_cast<uint32_t>(steps[i]);
        const SampleOut out = body(row, room);
        token[i] = out.token;
        logprobs.set(i, out.logprob);
        raw.set(i, out.raw_logprob);
        kept.set(i, out.log_kept_mass);
        return out.flaw;
    });
    return {tokens, logprobs.tensor, raw.tensor, kept.tensor};
}

const int64_t* row_tokens(const Tensor& tokens, int64_t rows) {
    check_dim("tokens", tokens, 1);
    check_size("tokens", tokens, 0, rows);
    check_dtype("tokens", tokens, ScalarType::Long);
    check_contiguous_cpu("tokens", tokens);
    return tokens.const_data_ptr<int64_t>();
}

Tensor token_logprobs(const Tensor& logits, const Tensor& tokens, const Tensor& params, const Optional& mask,
                      const Optional& history) {
    const Rows rows(logits, params, mask, history);
    const int64_t* token = row_tokens(tokens, rows.rows);
    const Reals logprobs(rows.rows, rows.real());
    const SampleBody body = sample_body(rows.type);
    rows.for_each([&](int64_t i, void* room) {
        if (token[i] < 0) return SampleFlaw::token_out_of_range;
        SampleRow row = rows[i];
        row.token = token[i];
        const SampleOut out = body(row, room);
        logprobs.set(i, out.logprob);
        return out.flaw;
    });
    return logprobs.tensor;
}

// As token_logprobs, with all that `sample` says of a token, and the entropy where asked for (else zeros).
std::tuple<Tensor, Tensor, Tensor, Tensor> score_tokens(const Tensor& logits, const Tensor& tokens,
                                                        const Tensor& params, const Optional& mask,
                                                        const Optional& history, bool entropy) {
    const Rows rows(logits, params, mask, history);
    const int64_t* token = row_tokens(tokens, rows.rows);
    const Reals logprobs(rows.rows, rows.real()), raw(rows.rows, rows.real()), kept(rows.rows, rows.real()),
        entropies(rows.rows, rows.real());
    const SampleBody body = sample_body(rows.type);
    rows.for_each([&](int64_t i, void* room) {
        if (token[i] < 0) return SampleFlaw::token_out_of_range;
        SampleRow row = rows[i];
        row.token = token[i];
        row.entropy = entropy;
        const SampleOut out = body(row, room);
        logprobs.set(i, out.logprob);
        raw.set(i, out.raw_logprob);
        kept.set(i, out.log_kept_mass);
        entropies.set(i, out.entropy);
        return out.flaw;
    });
    return {logprobs.tensor, raw.tensor, kept.tensor, entropies.tensor};
}

// A slope a row, of the arithmetic's precision.
struct Slopes {
    const void* from;
    bool fp64;
    Slopes(const char* name, const Tensor& t, const Rows& rows) : fp64(rows.type == LogitType::fp64) {
        check_dim(name, t, 1);
        check_size(name, t, 0, rows.rows);
        check_dtype(name, t, rows.real());
        check_contiguous_cpu(name, t);
        from = t.data_ptr();
    }
    double operator[](int64_t i) const {
        return fp64 ? static_cast<const double*>(from)[i] : static_cast<const float*>(from)[i];
    }
};

// The gradient of rows' logits [rows, vocab]; set_slopes(row, i) says what row i's scores weigh.
template <class SetSlopes>
Tensor gradient_of(const Rows& rows, const Tensor& tokens, const SetSlopes& set_slopes) {
    const int64_t* token = row_tokens(tokens, rows.rows);
    Tensor out = new_tensor({rows.rows, rows.vocab}, rows.real());
    auto* to = static_cast<char*>(out.data_ptr());
    const SampleBody body = sample_body(rows.type);
    rows.for_each([&](int64_t i, void* room) {
        if (token[i] < 0) return SampleFlaw::token_out_of_range;
        SampleRow row = rows[i];
        row.token = token[i];
        set_slopes(row, i);
        row.gradient = to + i * rows.vocab * (rows.type == LogitType::fp64 ? 8 : 4);
        return body(row, room).flaw;
    });
    return out;
}

Tensor score_tokens_backward(const Tensor& grad_logprobs, const Tensor& grad_raw, const Tensor& grad_entropy,
                             const Tensor& logits, const Tensor& tokens, const Tensor& params, const Optional& mask,
                             const Optional& history) {
    const Rows rows(logits, params, mask, history);
    const Slopes slope("grad_logprobs", grad_logprobs, rows), raw("grad_raw", grad_raw, rows),
        entropy("grad_entropy", grad_entropy, rows);
    return gradient_of(rows, tokens, [&](SampleRow& row, int64_t i) {
        row.slope = slope[i];
        row.slope_raw = raw[i];
        row.slope_entropy = entropy[i];
    });
}

Tensor token_logprobs_backward(const Tensor& grad, const Tensor& logits, const Tensor& tokens, const Tensor& params,
                               const Optional& mask, const Optional& history) {
    const Rows rows(logits, params, mask, history);
    const Slopes slope("grad", grad, rows);
    return gradient_of(rows, tokens, [&](SampleRow& row, int64_t i) { row.slope = slope[i]; });
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("sample", TORCH_BOX(&gm::sample));
    m.impl("score_tokens", TORCH_BOX(&gm::score_tokens));
    m.impl("score_tokens_backward", TORCH_BOX(&gm::score_tokens_backward));
    m.impl("token_logprobs", TORCH_BOX(&gm::token_logprobs));
    m.impl("token_logprobs_backward", TORCH_BOX(&gm::token_logprobs_backward));
}
