// A row as it comes: its parameters, its logits in the arithmetic's precision, and the room it works in. For body
// files.
#pragma once

#include "decode/sample.h"
#include "decode/sample_select.h"

GM_NAMESPACE_BEGIN

// The parameters at the arithmetic's precision.
template <class F>
struct Filters {
    F temperature, top_p, min_p, typical_p, penalty, presence, frequency, epsilon;
    double top_k, prompt;

    explicit Filters(const SampleParams& p)
        : temperature(static_cast<F>(p.temperature)),
          top_p(static_cast<F>(p.top_p)),
          min_p(static_cast<F>(p.min_p)),
          typical_p(static_cast<F>(p.typical_p)),
          penalty(static_cast<F>(p.repetition_penalty)),
          presence(static_cast<F>(p.presence_penalty)),
          frequency(static_cast<F>(p.frequency_penalty)),
          epsilon(static_cast<F>(p.epsilon)),
          top_k(p.top_k),
          prompt(p.prompt) {}
    bool valid() const {
        const F infinity = F(__builtin_inff());
        return temperature >= 0 && temperature < infinity && top_p >= 0 && top_p <= 1 && min_p >= 0 && min_p <= 1 &&
               typical_p >= 0 && typical_p <= 1 && penalty > 0 && penalty < infinity && top_k >= 0 &&
               presence > -infinity && presence < infinity && frequency > -infinity && frequency < infinity &&
               epsilon >= 0 && epsilon <= 1 && prompt >= 0;
    }
    bool cuts_k(int64_t vocab) const { return top_k >= 1 && top_k < static_cast<double>(vocab); }
    bool any(int64_t vocab) const { return cuts_k(vocab) || top_p < 1 || min_p > 0 || typical_p < 1; }
};

inline float from_half(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = h & 0x7FFF;
    const float magnitude =
        rest >= 0x7C00 ? bit_cast<float>(uint32_t(0x7F800000) | (rest << 13)) : bit_cast<float>(rest << 13) * 0x1p112f;
    return bit_cast<float>(bit_cast<uint32_t>(magnitude) | sign);
}

inline const float* load_row(const SampleRow& row, float* room) {
    const int64_t n = row.vocab, s = row.logits_stride;
    if (row.type == LogitType::fp32) {
        const auto* from = static_cast<const float*>(row.logits);
        if (s == 1) return from;
        for (int64_t i = 0; i < n; ++i) room[i] = from[i * s];
    } else {
        const auto* from = static_cast<const uint16_t*>(row.logits);
        if (row.type == LogitType::bf16 && s == 1)
            for (int64_t i = 0; i < n; ++i) room[i] = bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
        else if (row.type == LogitType::bf16)
            for (int64_t i = 0; i < n; ++i) room[i] = bit_cast<float>(static_cast<uint32_t>(from[i * s]) << 16);
        else
            for (int64_t i = 0; i < n; ++i) room[i] = from_half(from[i * s]);
    }
    return room;
}
inline const double* load_row(const SampleRow& row, double* room) {
    const auto* from = static_cast<const double*>(row.logits);
    if (row.logits_stride == 1) return from;
    for (int64_t i = 0; i < row.vocab; ++i) room[i] = from[i * row.logits_stride];
    return room;
}

template <class F>
GM_HD x16<F> lanes_at(const F* from, int64_t at, int64_t n) {
    return at + 16 <= n ? x16<F>::load(from + at)
           : at < n     ? x16<F>::load_first(from + at, static_cast<int>(n - at), F(-__builtin_inff()))
                        : x16<F>(F(-__builtin_inff()));
}

// The greatest of a row; infinity where one is NaN or +infinity.
template <class F>
F greatest_of(const F* x, int64_t n) {
    using M = typename MaskOf<F>::type;
    const x16<F> infinity{F(__builtin_inff())};
    x16<F> tops[4];  // so that no step waits for the one before
    x16<M> fines[4];
    for (int j = 0; j < 4; ++j) {
        tops[j] = x16<F>(F(-__builtin_inff()));
        fines[j] = x16<M>(M(-1));
    }
    for (int64_t at = 0; at < n; at += 64)
        for (int j = 0; j < 4; ++j) {
            const x16<F> v = lanes_at(x, at + 16 * j, n);
            fines[j] = fines[j] & (v < infinity);
            tops[j] = max(v, tops[j]);
        }
    const x16<M> fine = (fines[0] & fines[1]) & (fines[2] & fines[3]);
    const x16<F> top = max(max(tops[0], tops[1]), max(tops[2], tops[3]));
    alignas(64) M ok[16];
    fine.store(ok);
    M all = -1;
    for (const M lane : ok) all &= lane;
    return all ? max_lanes(top) : F(__builtin_inff());
}

// What a row needs, carved from the caller's scratch.
template <class F>
struct Room {
    F *x, *z;
    Survivors<F> kept;

    Room(void* scratch, int64_t vocab) {
        char* at = static_cast<char*>(scratch);
        const int64_t lanes = (vocab + 63) / 64 * 64;
        const auto take = [&](auto*& to) {
            to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(at);
            at += (lanes * static_cast<int64_t>(sizeof(*to)) + 63) / 64 * 64;
        };
        take(x), take(z), take(kept.z), take(kept.e), take(kept.index);
        take(kept.key), take(kept.weight), take(kept.place);
    }
};

GM_NAMESPACE_END
