// Many steps of many rows: slots hold sequences, a finished row's slot takes the next row that waits. Where rows are
// guided, each slot has a twin, S slots on, that holds the unconditional sequence: both draw one token, from logits
// between and beyond the two.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "decode/sample.h"
#include "decode/transformer_ops.h"

namespace gm {
namespace {

// The whole job: N rows, each with its prompt, its noise, its parameters and its outputs.
struct GenerateJob {
    int64_t rows, length;
    const int64_t *prompts, *prompt_ptr, *end_tokens, *seed, *sample_ids;
    const SampleParams* params;
    SampleBody sample;
    int64_t end_count;
    int64_t *tokens, *lengths;
    float *logprobs, *raw_logprobs, *log_kept_mass;
    bool* finished;
    int64_t* order;  // rows as they are done
    const float* prefix_cache;
    int64_t prefix_room;  // the positions of each beginning's cache
    const int64_t *prefix_of, *prefix_lengths;
    const int64_t *side_prompts, *side_ptr;  // of the unconditional sequences
    const float* scale;                      // null where rows are not guided

    bool guided() const { return scale != nullptr; }
    const int64_t* pointers(bool side) const { return side ? side_ptr : prompt_ptr; }
    int64_t prompt_length(int64_t row, bool side = false) const {
        return pointers(side)[row + 1] - pointers(side)[row];
    }
    int64_t token(int64_t row, int64_t at, bool side = false) const {
        const int64_t prompt = prompt_length(row, side);
        return at < prompt ? (side ? side_prompts : prompts)[pointers(side)[row] + at]
                           : tokens[row * length + at - prompt];
    }
    // Adds a token to a row; true where the row ends with it.
    bool add(int64_t row, int64_t token) const {
        tokens[row * length + lengths[row]++] = token;
        finished[row] = std::find(end_tokens, end_tokens + end_count, token) != end_tokens + end_count;
        return finished[row] || lengths[row] == length;
    }
};

// What all groups count together: the next row that waits, the rows done, and a row that could not be drawn for (-1:
// none), with its SampleFlaw.
struct Counts {
    std::atomic<int64_t> next, done, flawed, flaw;
};

// A slot's row (-1 where it is free) and how many tokens of its sequence, and of its twin's, the cache holds.
struct Slot {
    int64_t row, filled[2];
};

constexpr int64_t kPromptRows = 128;        // rows a step takes where prompts are read
constexpr int64_t kLogitRows = 64;          // rows whose logits stand in memory at once
constexpr int64_t kSpreadLogits = 1 << 14;  // logits whose sampling is worth handing over

struct alignas(64) AlignedBytes {
    char bytes[64];
};

// Slots that advance together, with room of their own.
class Group {
 public:
    // twins: how many slots on a slot's twin stands
    Group(const Engine& engine, const GenerateJob& job, Slot* slots, int64_t twins, std::vector<int64_t> mine)
        : engine_(engine),
          job_(job),
          slots_(slots),
          twins_(twins),
          mine_(std::move(mine)),
          each_(job.guided() ? 2 : 1),
          room_(std::max<int64_t>(each_ * static_cast<int64_t>(mine_.size()), kPromptRows)),
          logit_rows_(std::min<int64_t>(static_cast<int64_t>(mine_.size()), kLogitRows)),
          scratch_(engine.shape(), room_, each_ * logit_rows_),
          outcomes_(static_cast<size_t>(logit_rows_)) {}

    // One step of every slot, by a team or (null) by this thread alone; false where nothing is left to do.
    bool step(Counts& counts, Team* team) {
        gather(counts.next);
        if (rows_.empty()) return false;
        engine_.run(scratch_, rows_.data(), static_cast<int64_t>(rows_.size()), team);
        for (size_t begin = 0; begin < ready_slot_.size(); begin += kLogitRows) {
            const int64_t count = std::min<int64_t>(static_cast<int64_t>(ready_slot_.size() - begin), kLogitRows);
            engine_.final_norm(scratch_, ready_.data() + each_ * begin, each_ * count);
            engine_.head(scratch_, each_ * count, team);
            const int64_t* slots = ready_slot_.data() + begin;
            const auto draw_some = [&](int64_t from, int64_t to) {
                for (int64_t i = from; i < to; ++i) outcomes_[static_cast<size_t>(i)] = draw(slots[i], i);
            };
            if (team && count * engine_.shape().vocab >= kSpreadLogits)
                team->share(count, 1, draw_some);
            else
                draw_some(0, count);
            for (int64_t i = 0; i < count; ++i) record(slots[i], outcomes_[static_cast<size_t>(i)], counts);
        }
        return true;
    }

 private:
    // Fills free slots, and lists the tokens to compute: one a slot, and more of the prompts as far as there is room.
    void gather(std::atomic<int64_t>& next) {
        rows_.clear();
        ready_.clear();
        ready_slot_.clear();
        int64_t occupied = 0;
        for (const int64_t s : mine_) {
            if (slots_[s].row < 0) {
                const int64_t row = next.load() < job_.rows ? next.fetch_add(1) : job_.rows;
                if (row < job_.rows) slots_[s] = {row, {begin_with_prefix(row, s), 0}};
            }
            occupied += slots_[s].row >= 0;
        }
        int64_t spare = room_ - each_ * occupied;
        for (const int64_t s : mine_) {
            Slot& slot = slots_[s];
            if (slot.row < 0) continue;
            int64_t left[2] = {0, 0};
            for (int side = 0; side < each_; ++side)
                left[side] = job_.prompt_length(slot.row, side) + job_.lengths[slot.row] - slot.filled[side];
            // a sequence and its twin take their last known tokens in one step, for both logits that follow
            const int64_t have = spare + each_, all = left[0] + left[1];
            const bool whole = all <= have;
            int64_t used = 0;
            for (int side = 0; side < each_; ++side) {
                const int64_t count = whole ? left[side] : std::min(left[side] - (each_ == 2), have - used);
                for (int64_t i = 0; i < count; ++i, ++slot.filled[side])
                    rows_.push_back(
                        {job_.token(slot.row, slot.filled[side], side), s + side * twins_, slot.filled[side]});
                used += count;
                if (whole) ready_.push_back(static_cast<int64_t>(rows_.size()) - 1);
            }
            spare = have - std::max(used, each_);
            if (whole) ready_slot_.push_back(s);
        }
    }

    // Copies what a row's siblings have cached of their prompt; how many tokens that is.
    int64_t begin_with_prefix(int64_t row, int64_t slot) const {
        const int64_t prefix = job_.prefix_of[row];
        if (prefix < 0) return 0;
        const int64_t count = job_.prefix_lengths[prefix];
        engine_.copy_cache(job_.prefix_cache, job_.prefix_room, prefix, slot, count);
        return count;
    }

    // logits [conditional, unconditional] -> the guided ones, in the place of the first; the roundings are those of
    // gmkern/decode/generate/guidance.py's blend.
    void blend(float* logits, float scale) const {
        const float* side = logits + lanes_up(engine_.shape().vocab);
        for (int64_t i = 0; i < engine_.shape().vocab; ++i) logits[i] = side[i] + scale * (logits[i] - side[i]);
    }

    SampleOut draw(int64_t slot, int64_t at) {
        static thread_local std::vector<int64_t> history;
        static thread_local std::vector<AlignedBytes> room;
        const int64_t row = slots_[slot].row, vocab = engine_.shape().vocab, drawn = job_.lengths[row];
        float* logits = scratch_.logits.data() + each_ * at * lanes_up(vocab);
        if (job_.guided()) blend(logits, job_.scale[row]);
        SampleRow r;
        r.logits = logits;
        r.vocab = vocab;
        r.params = job_.params[row];
        r.seed = job_.seed[row];
        r.id = job_.sample_ids[row];
        r.step = static_cast<uint32_t>(drawn);
        if (r.params.remembers()) {  // prompt and new tokens in one piece
            r.params.prompt = static_cast<double>(job_.prompt_length(row));
            history.assign(job_.prompts + job_.prompt_ptr[row], job_.prompts + job_.prompt_ptr[row + 1]);
            history.insert(history.end(), job_.tokens + row * job_.length, job_.tokens + row * job_.length + drawn);
            r.history = history.data();
            r.history_size = static_cast<int64_t>(history.size());
        }
        room.resize(static_cast<size_t>(sample_scratch_bytes(r.type, vocab)) / sizeof(AlignedBytes) + 1);
        return job_.sample(r, room.data());
    }

    void record(int64_t slot, const SampleOut& out, Counts& counts) {
        const int64_t row = slots_[slot].row, at = row * job_.length + job_.lengths[row];
        if (out.flaw != SampleFlaw::none) {
            counts.flawed = row;
            counts.flaw = static_cast<int64_t>(out.flaw);
        } else {
            job_.logprobs[at] = static_cast<float>(out.logprob);
            job_.raw_logprobs[at] = static_cast<float>(out.raw_logprob);
            job_.log_kept_mass[at] = static_cast<float>(out.log_kept_mass);
            if (!job_.add(row, out.token)) return;
        }
        slots_[slot].row = -1;
        job_.order[counts.done.fetch_add(1)] = row;
    }

    const Engine& engine_;
    const GenerateJob& job_;
    Slot* slots_;
    int64_t twins_;
    std::vector<int64_t> mine_;
    int64_t each_;  // sequences a slot: 2 where rows are guided
    int64_t room_, logit_rows_;
    EngineScratch scratch_;
    std::vector<SampleOut> outcomes_;
    std::vector<TokenRow> rows_;
    std::vector<int64_t> ready_, ready_slot_;
};

// How many groups the slots in use are dealt to. One group shares each layer's work among the threads, so that weights
// which come from memory are read once. Several groups are shared among them whole, from the first layer to the last,
// for all steps of a call: no thread waits for another, and a group's keys and values stay in the near cache meanwhile.
int64_t groups_for(int64_t live, const Engine& engine, int64_t length) {
    constexpr int64_t kNear = int64_t(1) << 21, kFewest = 12;  // floats; rows that keep the linears' tiles full
    const TransformerShape& s = engine.shape();
    const int64_t threads = num_threads(), weights = engine.layout().size;
    if (live < 2 * threads || weights > 2 * kNear || (live < 8 * threads && weights > kNear / 2)) return 1;
    const int64_t each = (live + threads - 1) / threads;
    const int64_t slot = s.layers * s.kv_heads * length * (s.head_dim + s.value_width());
    const int64_t most = std::max(kFewest, kNear / slot);
    return (each + most - 1) / most * threads;
}

template <class T>
const T* read(const char* name, const Tensor& t, ScalarType dtype, int64_t size) {
    check_dtype(name, t, dtype);
    check_contiguous_cpu(name, t);
    GM_CHECK(t.numel() == size, name, ": got shape ", shape_text(t), "; takes ", size, " values");
    return t.const_data_ptr<T>();
}
template <class T>
T* write(const char* name, const Tensor& t, ScalarType dtype, int64_t size) {
    read<T>(name, t, dtype, size);
    return t.mutable_data_ptr<T>();
}

void check_job(const GenerateJob& job, const TransformerShape& s, const Tensor& prompts, const Tensor& side_prompts,
               int64_t room, const Tensor& slots, int64_t prefixes) {
    const int64_t n = job.rows;
    GM_CHECK(job.prompt_ptr[0] == 0 && job.prompt_ptr[n] == prompts.numel(), "prompt_ptr: does not span prompts");
    GM_CHECK(!job.guided() || (job.side_ptr[0] == 0 && job.side_ptr[n] == side_prompts.numel()),
             "side_ptr: does not span side_prompts");
    for (int64_t i = 0; i < n; ++i) {
        const int64_t prompt = job.prompt_length(i);
        GM_CHECK(prompt >= 1 && prompt <= room && job.length <= room - prompt, "prompts: row ", i, " has ", prompt,
                 " tokens and may draw ", job.length, "; takes 1 or more, and together at most ", room);
        GM_CHECK(job.lengths[i] >= 0 && job.lengths[i] <= job.length, "lengths: got ", job.lengths[i]);
        const int64_t side = job.guided() ? job.prompt_length(i, true) : 0;
        GM_CHECK(!job.guided() || (side >= 1 && side <= room && job.length <= room - side), "side_prompts: row ", i,
                 " has ", side, " tokens and may draw ", job.length, "; takes 1 or more, and together at most ", room);
        for (int64_t at = 0; at < prompt + job.lengths[i] + side; ++at) {
            const int64_t token = at < side ? job.token(i, at, true) : job.token(i, at - side);
            GM_CHECK(token >= 0 && token < s.vocab, "prompts: got ", token, "; takes ids in [0, ", s.vocab, ")");
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        const int64_t prefix = job.prefix_of[i];
        if (prefix < 0) continue;
        GM_CHECK(prefix < prefixes && job.prefix_lengths[prefix] >= 0 &&
                     job.prefix_lengths[prefix] < job.prompt_length(i) &&
                     job.prefix_lengths[prefix] <= std::min(job.prefix_room, room),
                 "prefix_of: row ", i, " does not fit prefix ", prefix);
    }
    const Slot* slot = reinterpret_cast<const Slot*>(slots.const_data_ptr<int64_t>());
    for (int64_t i = 0; i < slots.size(0); ++i) {
        if (slot[i].row < 0) continue;
        for (int side = 0; side <= job.guided(); ++side)
            GM_CHECK(slot[i].row < n && slot[i].filled[side] >= 0 && job.lengths[slot[i].row] < job.length &&
                         slot[i].filled[side] < job.prompt_length(slot[i].row, side) + job.lengths[slot[i].row],
                     "slots: slot ", i, " does not fit its row");
    }
}

void generate_steps(const Tensor& packed, const Tensor& turns, Tensor cache, const Tensor& prompts,
                    const Tensor& prompt_ptr, const Tensor& end_tokens, const Tensor& seed, const Tensor& sample_ids,
                    const Tensor& params, Tensor slots, Tensor progress, Tensor tokens, Tensor lengths, Tensor logprobs,
                    Tensor raw_logprobs, Tensor log_kept_mass, Tensor finished, Tensor order,
                    const Tensor& prefix_cache, const Tensor& prefix_of, const Tensor& prefix_lengths,
                    const Tensor& side_prompts, const Tensor& side_ptr, const Tensor& scale, int64_t steps,
                    const std::vector<int64_t>& shape, const std::vector<double>& reals) {
    const Engine engine = make_engine(packed, turns, cache, transformer_shape(shape, reals));
    check_dim("tokens", tokens, 2);
    const int64_t n = tokens.size(0), length = tokens.size(1);
    constexpr auto kLong = ScalarType::Long;
    constexpr auto kFloat = ScalarType::Float;
    const bool guided = scale.numel() > 0;
    const GenerateJob job{
        n,
        length,
        read<int64_t>("prompts", prompts, kLong, prompts.numel()),
        read<int64_t>("prompt_ptr", prompt_ptr, kLong, n + 1),
        read<int64_t>("end_tokens", end_tokens, kLong, end_tokens.numel()),
        read<int64_t>("seed", seed, kLong, n),
        read<int64_t>("sample_ids", sample_ids, kLong, n),
        reinterpret_cast<const SampleParams*>(read<double>("params", params, ScalarType::Double, n * kSampleParams)),
        sample_body(LogitType::fp32),
        end_tokens.numel(),
        write<int64_t>("tokens", tokens, kLong, n * length),
        write<int64_t>("lengths", lengths, kLong, n),
        write<float>("logprobs", logprobs, kFloat, n * length),
        write<float>("raw_logprobs", raw_logprobs, kFloat, n * length),
        write<float>("log_kept_mass", log_kept_mass, kFloat, n * length),
        write<bool>("finished", finished, ScalarType::Bool, n),
        write<int64_t>("order", order, kLong, n),
        read<float>("prefix_cache", prefix_cache, kFloat, prefix_cache.numel()),
        prefix_cache.dim() == 5 ? prefix_cache.size(3) : 0,
        read<int64_t>("prefix_of", prefix_of, kLong, n),
        read<int64_t>("prefix_lengths", prefix_lengths, kLong, prefix_lengths.numel()),
        read<int64_t>("side_prompts", side_prompts, kLong, side_prompts.numel()),
        read<int64_t>("side_ptr", side_ptr, kLong, guided ? n + 1 : 0),
        guided ? read<float>("scale", scale, kFloat, n) : nullptr};
    check_dim("prefix_cache", prefix_cache, 5);
    for (const int axis : {1, 2, 4}) check_size("prefix_cache", prefix_cache, axis, cache.size(axis));
    check_size("prefix_lengths", prefix_lengths, 0, prefix_cache.size(0));
    check_dim("slots", slots, 2);
    const int64_t count = slots.size(0);
    check_size("cache", cache, 0, guided ? 2 * count : count);
    auto* slot = reinterpret_cast<Slot*>(write<int64_t>("slots", slots, kLong, 3 * count));
    int64_t* reached = write<int64_t>("progress", progress, kLong, 4);
    check_job(job, engine.shape(), prompts, side_prompts, std::min(cache.size(3), engine.shape().max_len), slots,
              prefix_cache.size(0));
    int64_t taken = 0;
    for (int64_t s = 0; s < count; ++s) taken += slot[s].row >= 0;
    GM_CHECK(reached[0] >= 0 && reached[0] <= n && reached[1] >= 0 && reached[1] + taken <= reached[0],
             "progress: got ", reached[0], " rows begun and ", reached[1], " done with ", taken,
             " in slots; takes as many as there are, up to ", n);
    const int64_t vocab = engine.shape().vocab;
    GM_CHECK(vocab <= kSampleVocab, "shape: got a vocabulary of ", vocab, "; takes at most ", kSampleVocab);

    Counts counts{{reached[0]}, {reached[1]}, {reached[2]}, {reached[3]}};
    std::vector<int64_t> live;
    for (const bool taken : {true, false})  // slots in use first, so that they are dealt evenly
        for (int64_t s = 0; s < count; ++s)
            if ((slot[s].row >= 0) == taken && (taken || static_cast<int64_t>(live.size()) < n)) live.push_back(s);
    const int64_t busy = static_cast<int64_t>(live.size());
    const int64_t groups = groups_for(guided ? 2 * busy : busy, engine, cache.size(3));
    std::vector<std::unique_ptr<Group>> group;
    for (int64_t g = 0; g < groups; ++g) {
        std::vector<int64_t> mine;
        for (int64_t i = g; i < busy; i += groups) mine.push_back(live[static_cast<size_t>(i)]);
        group.push_back(std::make_unique<Group>(engine, job, slot, count, std::move(mine)));
    }
    const auto advance = [&](int64_t g, Team* team) {
        for (int64_t i = 0; i < steps && group[static_cast<size_t>(g)]->step(counts, team); ++i) {
        }
    };
    Team::run([&](Team& team) {
        if (groups == 1) return advance(0, &team);
        team.share(groups, 1, [&](int64_t g, int64_t) { advance(g, nullptr); });
    });
    reached[0] = std::min(counts.next.load(), n);
    reached[1] = counts.done;
    reached[2] = counts.flawed;
    reached[3] = counts.flaw;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("generate_steps", TORCH_BOX(&gm::generate_steps)); }
