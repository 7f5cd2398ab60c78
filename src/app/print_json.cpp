#include "app/print_json.h"

#include <nlohmann/json.hpp>

#include <iostream>

namespace pimoe {

void print_json(const nlohmann::ordered_json& document, int indent) {
  std::cout << document.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
}

}  // namespace pimoe
