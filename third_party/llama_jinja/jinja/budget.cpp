#include "jinja/budget.h"

namespace jinja {

static thread_local budget * current = nullptr;

budget::budget(size_t steps, size_t bytes, size_t depth) : steps(steps), bytes(bytes), depth(depth), before(current) {
    current = this;
}

budget::~budget() {
    current = before;
}

void charge(size_t bytes) {
    if (current == nullptr) return;
    if (bytes > current->bytes) throw over_budget("it makes too much text");
    current->bytes -= bytes;
}

void charge_step() {
    if (current == nullptr) return;
    if (current->steps == 0) throw over_budget("it takes too many steps");
    --current->steps;
}

nested::nested() : of(current) {
    if (of == nullptr) return;
    if (of->depth == 0) throw over_budget("it nests too deep");
    --of->depth;
}

nested::~nested() {
    if (of != nullptr) ++of->depth;
}

} // namespace jinja
