#pragma once
// PiMoE: bounds of what one template may cost, whatever it says. Not of llama.cpp; the places that call it are marked "pimoe".
#include <cstddef>
#include <stdexcept>
#include <string>

namespace jinja {

/// A template that asked for too much. It passes through the engine as it is.
struct over_budget : public std::runtime_error {
    explicit over_budget(const std::string & what) : std::runtime_error(what) {}
};

/// What may still be spent on this thread; without one nothing is counted.
struct budget {
    size_t steps = 0;      // statements and expressions that are executed
    size_t bytes = 0;      // of strings and lists that are made, all together
    size_t depth = 0;      // of nested statements, expressions and values
    budget * before = nullptr;

    budget(size_t steps, size_t bytes, size_t depth);
    ~budget();
    budget(const budget &) = delete;
    budget & operator=(const budget &) = delete;
};

/// Called before memory is taken.
void charge(size_t bytes);
void charge_step();

/// One level deeper for as long as it lives.
struct nested {
    nested();
    ~nested();
    nested(const nested &) = delete;
    nested & operator=(const nested &) = delete;
private:
    budget * of;
};

} // namespace jinja
