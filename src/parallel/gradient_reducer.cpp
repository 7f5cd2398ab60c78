#include "parallel/gradient_reducer.h"

#include "base/errors.h"
#include "base/text.h"
#include "ops/gradient_sink.h"
#include "parallel/device.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

namespace pimoe {
namespace {

/// One parameter's place in its bucket.
struct Entry {
  std::string name;
  at::Tensor value;
  at::Tensor gradient;    ///< view of the bucket, of the value's shape
  bool written = false;   ///< in this step; until then the view holds the last step's numbers
  bool awaited = false;   ///< in the step's last backward, its gradient is still to come
  bool in_parts = false;  ///< nobody can say which part is the last: its bucket is launched by finish()
};

/// The reducer's view of a bucket. Holds tensors, not the Bucket, so that its address does not matter.
struct Sum {
  const Communicator* group = nullptr;
  at::Tensor gradients;
  at::Tensor slice;
  std::vector<Entry> entries;
  size_t awaited = 0;
};

}  // namespace

struct GradientReducer::State {
  explicit State(c10::Device device_of_gradients) : device(device_of_gradients), side(device_of_gradients) {}

  /// The bucket's part for a gradient that has come; called on autograd's thread. @throws ShapeError where none is expected
  GradientSink::Room room(size_t sum_index, size_t entry_index) {
    Entry& entry = sums[sum_index].entries[entry_index];
    if (!in_step) throw ShapeError(concat("a gradient of ", entry.name, " came outside of begin_step() ... finish()"));
    if (last_backward && !entry.in_parts && !entry.awaited) {
      // Its bucket's sum over ranks may have begun with the first.
      throw ShapeError(concat("a second gradient of ", entry.name, " came in one backward, and Parameter::gradient_in_parts is not set"));
    }
    // What comes first overwrites, instead of zeroing the bucket before: one pass less.
    return {entry.gradient, std::exchange(entry.written, true)};
  }

  /// The gradient, or its part, is where room() said.
  void taken(size_t sum_index, size_t entry_index) {
    Entry& entry = sums[sum_index].entries[entry_index];
    // What overlaps with the rest of backward (SideStream::compute) is not waited for by the stream on which the others come.
    if (current_stream_id(device) != backward_stream) side.follow();
    if (!entry.awaited || entry.in_parts) return;
    entry.awaited = false;
    --sums[sum_index].awaited;
    if (device.is_cuda()) launch_ready();  // MPI makes no progress of its own: on the host nothing would overlap
  }

  /// Launches the buckets whose turn has come, last declared first. One bucket that waits holds up those behind it: the order is the
  /// same on every rank, whatever arrives first.
  void launch_ready() {
    while (unlaunched > 0 && sums[unlaunched - 1].awaited == 0) launch(sums[--unlaunched]);
  }

  void launch(Sum& sum) {
    if (sum.group->size() == 1) return;
    side.run({sum.gradients}, [&sum] { sum.group->reduce_scatter(sum.slice, sum.gradients); });
  }

  c10::Device device;
  SideStream side;
  std::vector<Sum> sums;        // in the order of the buckets
  int64_t backward_stream = 0;  // on which backward was begun
  size_t unlaunched = 0;        // sums[0 .. unlaunched) are still to be launched
  bool in_step = false;
  bool last_backward = false;
};

namespace {

/// Of one parameter. Runs after autograd has accumulated into the leaf's .grad.
template <class State>
class MoveIntoBucket final : public torch::autograd::PostAccumulateGradHook, public GradientSink {
 public:
  MoveIntoBucket(std::weak_ptr<State> state, size_t sum, size_t entry) : state_(std::move(state)), sum_(sum), entry_(entry) {}

  void operator()(const at::Tensor& leaf) override {
    const auto state = state_.lock();
    if (!state) return;
    const at::NoGradGuard no_grad;
    at::Tensor& gradient = leaf.mutable_grad();
    if (!gradient.defined()) return;  // the operation has used the sink
    const Room room = state->room(sum_, entry_);
    if (room.adds) {
      add_to_sum(room.sum, gradient);
    } else {
      room.sum.copy_(gradient);
    }
    gradient.reset();
    state->taken(sum_, entry_);
  }

  Room begin() override {
    const auto state = state_.lock();
    if (!state) throw ShapeError("a gradient came after its GradientReducer had gone");
    return state->room(sum_, entry_);
  }
  void end() override {
    if (const auto state = state_.lock()) state->taken(sum_, entry_);
  }

 private:
  std::weak_ptr<State> state_;
  size_t sum_;
  size_t entry_;
};

}  // namespace

GradientReducer::GradientReducer(ParameterBuckets& buckets, const ProcessMesh& mesh) : state_(std::make_shared<State>(mesh.device())) {
  for (const Bucket& bucket : buckets.buckets()) {
    Sum& sum = state_->sums.emplace_back();
    if (!bucket.gradients.defined()) throw ShapeError("GradientReducer needs buckets with gradients: ParameterBuckets(..., trained=true)");
    sum.group = &mesh.gradient_group(bucket.group);
    sum.gradients = bucket.gradients;
    sum.slice = bucket.gradient_slice();
    for (const Bucket::Entry& entry : bucket.entries) {
      const Parameter& parameter = *entry.parameter;
      const at::Tensor gradient = bucket.gradients.narrow(0, entry.begin, parameter.box.numel()).view(parameter.box.shape);
      sum.entries.push_back(
          {.name = parameter.name, .value = parameter.value, .gradient = gradient, .in_parts = parameter.gradient_in_parts});
    }
  }
  for (size_t sum = 0; sum < state_->sums.size(); ++sum) {
    const std::vector<Entry>& entries = state_->sums[sum].entries;
    for (size_t entry = 0; entry < entries.size(); ++entry) {
      const at::Tensor& value = entries[entry].value;
      if (torch::autograd::impl::post_acc_grad_hooks(value)) throw ShapeError(entries[entry].name + " has a GradientReducer already");
      torch::autograd::impl::set_post_acc_grad_hooks(value, std::make_unique<MoveIntoBucket<State>>(state_, sum, entry));
    }
  }
}

GradientReducer::~GradientReducer() {
  for (const Sum& sum : state_->sums) {
    for (const Entry& entry : sum.entries) torch::autograd::impl::set_post_acc_grad_hooks(entry.value, nullptr);
  }
}

void GradientReducer::begin_step() {
  state_->side.join();  // of a step that was left by an exception
  state_->in_step = true;
  state_->last_backward = false;
  state_->unlaunched = state_->sums.size();
  for (Sum& sum : state_->sums) {
    for (Entry& entry : sum.entries) entry.written = entry.awaited = false;
  }
}

void GradientReducer::begin_backward(bool last) {
  if (!state_->in_step) throw ShapeError("GradientReducer: begin_backward() needs begin_step() before it");
  state_->last_backward = last;
  state_->backward_stream = current_stream_id(state_->device);
  for (Sum& sum : state_->sums) {
    sum.awaited = sum.entries.size();
    for (Entry& entry : sum.entries) entry.awaited = last;
  }
}

void GradientReducer::finish() {
  if (!state_->in_step) throw ShapeError("GradientReducer: finish() needs begin_step() before it");
  const at::NoGradGuard no_grad;
  for (; state_->unlaunched > 0; --state_->unlaunched) {
    Sum& sum = state_->sums[state_->unlaunched - 1];
    for (Entry& entry : sum.entries) {
      if (!entry.written) entry.gradient.zero_();
    }
    state_->launch(sum);
  }
  state_->side.join();
  state_->in_step = false;
}

}  // namespace pimoe
