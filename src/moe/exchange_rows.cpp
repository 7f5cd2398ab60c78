#include "moe/exchange_rows.h"

#include <torch/csrc/autograd/custom_function.h>

namespace pimoe {
namespace {

/// What backward needs besides tensors, in the only form that an autograd context stores.
struct ExchangeRecord : torch::CustomClassHolder {
  ExchangeRecord(const Communicator& communicator, std::vector<int64_t> send, std::vector<int64_t> recv)
      : group(communicator), send_rows(std::move(send)), recv_rows(std::move(recv)) {}
  const Communicator& group;
  std::vector<int64_t> send_rows;
  std::vector<int64_t> recv_rows;
};

class ExchangeRows : public torch::autograd::Function<ExchangeRows> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& rows,
                            const c10::intrusive_ptr<ExchangeRecord>& record) {
    context->saved_data["record"] = c10::IValue::make_capsule(record);
    return record->group.all_to_all(rows, record->send_rows, record->recv_rows);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto capsule = context->saved_data["record"].toCapsule();
    const auto& record = static_cast<const ExchangeRecord&>(*capsule);
    return {record.group.all_to_all(gradients[0].contiguous(), record.recv_rows, record.send_rows), at::Tensor()};
  }
};

}  // namespace

at::Tensor exchange_rows(const at::Tensor& rows, const std::vector<int64_t>& send_rows, const std::vector<int64_t>& recv_rows,
                         const Communicator& group) {
  if (group.size() == 1) return rows;
  return ExchangeRows::apply(rows, c10::make_intrusive<ExchangeRecord>(group, send_rows, recv_rows));
}

}  // namespace pimoe
