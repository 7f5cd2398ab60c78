#pragma once
// PiMoE: llama.cpp has a JSON class of its own here; the engine needs of it what nlohmann's has.
#include <nlohmann/json.hpp>
using common_json = nlohmann::ordered_json;
