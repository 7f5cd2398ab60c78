/// Launches of grouped_product_kernel.cuh: the six products of a gated network in groups.

#include "ops/cuda_math.cuh"
#include "ops/grouped_product_kernel.cuh"

#include <c10/cuda/CUDAFunctions.h>

#include <algorithm>

namespace pimoe::cuda {
namespace {

using hopper::grouped_product;
using hopper::Kind;

decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) throw Error("the CUDA driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  return encoder;
}

/// How a box of `box_columns` by `box_rows` is found in [planes, rows, columns] of bfloat16 or float32; strides in numbers.
CUtensorMap tensor_map(const void* data, int64_t columns, int64_t rows, int64_t planes, int64_t row_stride, int64_t plane_stride,
                       uint32_t box_columns, uint32_t box_rows, cuuint32_t dimensions = 3,
                       CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) {
  CUtensorMap map{};
  const cuuint64_t bytes = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2 : 4;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(planes)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(row_stride) * bytes, static_cast<cuuint64_t>(plane_stride) * bytes};
  const cuuint32_t box[] = {box_columns, box_rows, 1};
  const cuuint32_t steps[] = {1, 1, 1};
  const CUresult code =
      tensor_map_encoder()(&map, type, dimensions, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                           CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS) throw Error("cuTensorMapEncodeTiled: " + std::to_string(code));
  return map;
}

/// Of [rows, columns]: boxes of 64 columns.
CUtensorMap matrix_map(const void* data, int64_t rows, int64_t columns, uint32_t box_rows) {
  return tensor_map(data, columns, rows, 1, columns, rows * columns, 64, box_rows, 2);
}
/// Of [groups, rows, columns].
CUtensorMap weights_map(const void* data, int64_t groups, int64_t rows, int64_t columns, uint32_t box_rows) {
  return tensor_map(data, columns, rows, groups, columns, rows * columns, 64, box_rows);
}
/// What a warp sends, of [groups, rows, columns].
CUtensorMap patches_map(const void* data, int64_t groups, int64_t rows, int64_t columns) {
  return weights_map(data, groups, rows, columns, 16);
}
/// The same of float32 sums.
CUtensorMap sums_map(const void* data, int64_t groups, int64_t rows, int64_t columns) {
  return tensor_map(data, columns, rows, groups, columns, rows * columns, 32, 16, 3, CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
}
__nv_bfloat16* numbers(void* data) { return static_cast<__nv_bfloat16*>(data); }

ProductArguments arguments_of(const GroupedMlpArguments& a) {
  ProductArguments arguments{};
  arguments.ends = a.ends;
  arguments.groups = static_cast<int>(a.groups);
  arguments.rows = static_cast<int>(a.rows);
  arguments.source_row_bytes = static_cast<uint32_t>(a.width * 2);
  arguments.row_tokens = a.row_tokens;
  arguments.slots = a.slots;
  return arguments;
}

/// Of a device that a kernel fills.
int cluster_count() {
  int device = 0;
  int processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  return std::min(processors / hopper::kClusterBlocks, static_cast<int>(kMostClusters));
}

template <Operand kLeft, Operand kRight, Outcome kOutcome>
void run(const char* name, const ProductMaps& maps, const ProductArguments& arguments) {
  using K = Kind<kLeft, kRight, kOutcome>;
  cudaFuncSetAttribute(grouped_product<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, K::shared_bytes);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {hopper::kClusterBlocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cluster_count() * hopper::kClusterBlocks));
  config.blockDim = dim3(hopper::kProductThreads);
  config.dynamicSmemBytes = K::shared_bytes;
  config.stream = c10::cuda::getCurrentCUDAStream();
  config.attrs = &cluster;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, grouped_product<K>, maps, arguments);
  check_launch(name);
}

}  // namespace

bool has_grouped_mlp() {
  int device = 0;
  int major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major == 9;
}

void grouped_mlp(const GroupedMlpArguments& a) {
  ProductMaps maps{};
  ProductArguments up = arguments_of(a);
  up.n = static_cast<int>(a.hidden_width);
  up.k = static_cast<int>(a.width);
  up.source = a.input;
  up.weights = a.weigh_hidden ? a.weights : nullptr;
  up.gate_up = numbers(a.gate_up_rows);
  up.hidden = numbers(a.hidden);
  maps.right = weights_map(a.gate_up, a.groups, 2 * a.hidden_width, a.width, 128);
  if (a.row_tokens != nullptr) {
    run<Operand::kGatheredRows, Operand::kWeights, Outcome::kSwiglu>("grouped_mlp: gate and up of gathered rows", maps, up);
  } else {
    maps.left = matrix_map(a.input, a.rows, a.width, hopper::kTileRows);
    run<Operand::kRows, Operand::kWeights, Outcome::kSwiglu>("grouped_mlp: gate and up", maps, up);
  }

  ProductArguments down = arguments_of(a);
  down.n = static_cast<int>(a.width);
  down.k = static_cast<int>(a.hidden_width);
  down.output = numbers(a.output);
  maps.left = matrix_map(a.hidden, a.rows, a.hidden_width, hopper::kTileRows);
  maps.right = weights_map(a.down, a.groups, a.width, a.hidden_width, 128);
  maps.output = patches_map(a.output, 1, a.rows, a.width);
  run<Operand::kRows, Operand::kWeights, Outcome::kPlain>("grouped_mlp: down", maps, down);
}

namespace {

constexpr int kDealt = 1024;          // groups that are sorted; of more no one has much of the whole
constexpr int kThreadsOfCluster = 8;  // that compare its load with the others'
constexpr int kStepsOfEnd = 6;        // that the results of a tile take to be sent, about

/// Deals out the tiles of weights' gradients, `pairs` to each group, so that all clusters are done at the same time: a tile takes as many steps as its
/// group has rows, and routing is seldom even. Longest groups first, each to the clusters that have least so far; as soon as one more tile is nothing
/// beside what a cluster has in all, by turns. The same tiles in the same order of sums whoever computes them: bits do not depend on it.
/// A block for each of the two gradients.
__global__ void __launch_bounds__(kMostClusters* kThreadsOfCluster)
    deal_turns(const int32_t* ends, int groups, int2 pairs_of_gradients, int clusters, GroupTurn* turns) {
  __shared__ int lengths[kDealt];
  __shared__ int order[kDealt];
  __shared__ unsigned long long loads[2][kMostClusters];  // steps of each cluster, before and after a group
  __shared__ unsigned long long total;
  __shared__ int heavy;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int pairs = blockIdx.x == 0 ? pairs_of_gradients.x : pairs_of_gradients.y;
  turns += blockIdx.x * kMostClusters * groups;
  const auto begin_of = [&](int group) { return group == 0 ? 0 : ends[group - 1]; };
  const auto cost_of = [&](int length) { return static_cast<unsigned long long>(hopper::steps_of(length) + kStepsOfEnd); };
  const bool sorts = groups <= kDealt;
  if (thread == 0) total = 0, heavy = 0;
  if (thread < clusters) loads[0][thread] = 0;
  __syncthreads();
  if (sorts) {
    unsigned long long mine = 0;
    for (int group = thread; group < groups; group += threads) {
      lengths[group] = ends[group] - begin_of(group);
      mine += cost_of(lengths[group]);
    }
    atomicAdd(&total, mine);  // whole numbers: the same in any order
    __syncthreads();
    const unsigned long long share = total * pairs / clusters;
    for (int group = thread; group < groups; group += threads) {
      int place = 0;
      for (int other = 0; other < groups; ++other) {
        place += lengths[other] > lengths[group] || (lengths[other] == lengths[group] && other < group) ? 1 : 0;
      }
      order[place] = group;
      if (32 * cost_of(lengths[group]) > share) atomicAdd(&heavy, 1);
    }
    __syncthreads();
  }
  const int cluster = thread / kThreadsOfCluster, part = thread % kThreadsOfCluster;
  int rank = cluster;  // among the clusters, by load
  const auto write = [&](int place, int first) {
    const int group = sorts ? order[place] : place;
    turns[static_cast<int64_t>(cluster) * groups + place] = {group, begin_of(group), ends[group], first};
  };
  for (int place = 0; place <= heavy; ++place) {  // once more than there are heavy ones: for the order of those by turns
    const unsigned long long* const now = loads[place % 2];
    const unsigned long long load = cluster < clusters ? now[cluster] : 0;
    rank = 0;
    for (int other = part; other < clusters; other += kThreadsOfCluster) {
      rank += now[other] < load || (now[other] == load && other < cluster) ? 1 : 0;
    }
    for (int distance = 1; distance < kThreadsOfCluster; distance *= 2) rank += __shfl_xor_sync(0xFFFFFFFFu, rank, distance);
    if (place == heavy) break;
    if (cluster < clusters && part == 0) {
      const int taken = pairs / clusters + (rank < pairs % clusters ? 1 : 0);
      loads[(place + 1) % 2][cluster] = load + taken * cost_of(lengths[order[place]]);
      write(place, rank);
    }
    __syncthreads();
  }
  if (cluster >= clusters) return;
  for (int place = heavy + part; place < groups; place += kThreadsOfCluster) {
    const auto before = static_cast<int>(static_cast<long long>(place - heavy) * pairs % clusters);
    write(place, (rank - before + clusters) % clusters);
  }
}

/// @returns pairs of tiles in a group's [m, n]
int pairs_in(int64_t m, int64_t n) {
  return hopper::pairs_of(static_cast<int>(m)) * static_cast<int>((n + hopper::kTileColumns - 1) / hopper::kTileColumns);
}

/// Ahead of the weights' gradients, which come last.
void deal_out(const GroupedMlpArguments& a) {
  const int clusters = cluster_count();
  const int threads = (clusters * kThreadsOfCluster + 31) / 32 * 32;
  deal_turns<<<2, threads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      a.ends, static_cast<int>(a.groups), make_int2(pairs_in(2 * a.hidden_width, a.width), pairs_in(a.width, a.hidden_width)), clusters,
      static_cast<GroupTurn*>(a.turns));
  check_launch("grouped_mlp: turns");
}

}  // namespace

void grouped_mlp_backward(const GroupedMlpArguments& a) {
  deal_out(a);
  ProductMaps maps{};
  ProductArguments hidden = arguments_of(a);
  hidden.n = static_cast<int>(a.hidden_width);
  hidden.k = static_cast<int>(a.width);
  hidden.source = a.grad_output;
  hidden.weights = a.weights;
  hidden.dots = a.weight_dots;
  hidden.gate_up = numbers(a.gate_up_rows);
  hidden.grad_gate_up = numbers(a.grad_gate_up_rows);
  hidden.hidden = numbers(a.hidden);
  maps.right = weights_map(a.down, a.groups, a.width, a.hidden_width, 64);
  if (a.row_tokens != nullptr) {
    run<Operand::kGatheredRows, Operand::kTurnedWeights, Outcome::kSwigluBackward>("grouped_mlp: gradient of gathered rows", maps, hidden);
  } else {
    maps.left = matrix_map(a.grad_output, a.rows, a.width, hopper::kTileRows);
    run<Operand::kRows, Operand::kTurnedWeights, Outcome::kSwigluBackward>("grouped_mlp: gradient of hidden rows", maps, hidden);
  }

  if (a.grad_rows != nullptr) {
    ProductArguments rows = arguments_of(a);
    rows.n = static_cast<int>(a.width);
    rows.k = static_cast<int>(2 * a.hidden_width);
    rows.output = numbers(a.grad_rows);
    maps.left = matrix_map(a.grad_gate_up_rows, a.rows, 2 * a.hidden_width, hopper::kTileRows);
    maps.right = weights_map(a.gate_up, a.groups, 2 * a.hidden_width, a.width, 64);
    maps.output = patches_map(a.grad_rows, 1, a.rows, a.width);
    run<Operand::kRows, Operand::kTurnedWeights, Outcome::kPlain>("grouped_mlp: gradient of rows", maps, rows);
  }
}

namespace {

/// A gradient of weights: [groups, m, n], in bfloat16 or added up in float32.
template <Operand kLeft>
void write_weight_gradient(const char* name, const GroupedMlpArguments& a, int64_t which, const GradientOutput& output, ProductMaps& maps,
                           int64_t m, int64_t n) {
  ProductArguments arguments = arguments_of(a);
  arguments.m = static_cast<int>(m);
  arguments.n = static_cast<int>(n);
  arguments.source = a.grad_output;
  arguments.turns = reinterpret_cast<const int4*>(static_cast<const char*>(a.turns) + which * turn_bytes(a.groups));
  if (output.is_sum) {
    arguments.adds = output.adds;
    maps.output = sums_map(output.data, a.groups, m, n);
    run<kLeft, Operand::kColumns, Outcome::kSum>(name, maps, arguments);
  } else {
    arguments.output = numbers(output.data);
    maps.output = patches_map(output.data, a.groups, m, n);
    run<kLeft, Operand::kColumns, Outcome::kPlain>(name, maps, arguments);
  }
}

}  // namespace

void grouped_mlp_gate_up_gradient(const GroupedMlpArguments& a, const GradientOutput& output) {
  ProductMaps maps{};
  maps.left = matrix_map(a.grad_gate_up_rows, a.rows, 2 * a.hidden_width, 64);
  maps.right = matrix_map(a.input, a.rows, a.width, 64);
  write_weight_gradient<Operand::kColumns>("grouped_mlp: gradient of gate and up", a, 0, output, maps, 2 * a.hidden_width, a.width);
}

void grouped_mlp_down_gradient(const GroupedMlpArguments& a, const GradientOutput& output) {
  ProductMaps maps{};
  maps.right = matrix_map(a.hidden, a.rows, a.hidden_width, 64);
  if (a.row_tokens != nullptr) {
    write_weight_gradient<Operand::kGatheredColumns>("grouped_mlp: gradient of down, gathered", a, 1, output, maps, a.width,
                                                     a.hidden_width);
  } else {
    maps.left = matrix_map(a.grad_output, a.rows, a.width, 64);
    write_weight_gradient<Operand::kColumns>("grouped_mlp: gradient of down", a, 1, output, maps, a.width, a.hidden_width);
  }
}

namespace {

__global__ void divide(const int32_t* slots, int32_t* tokens, int32_t choices, int64_t rows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < rows) tokens[row] = slots[row] / choices;
}

/// In the order of tiles: the same bits in each run.
__global__ void sum_dots(const float* dots, const int32_t* positions, float* sums, int64_t parts, int64_t rows, int64_t slots) {
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (slot >= slots) return;
  const int64_t row = positions == nullptr ? slot : positions[slot];
  float sum = 0.0f;
  if (row >= 0) {
    for (int64_t part = 0; part < parts; ++part) sum += dots[part * rows + row];
  }
  sums[slot] = sum;
}

unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

void tokens_of_slots(const int32_t* slots, int32_t* tokens, int64_t choices, int64_t rows) {
  divide<<<blocks_for(rows), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(slots, tokens, static_cast<int32_t>(choices), rows);
  check_launch("tokens_of_slots");
}

void sum_weight_dots(const float* dots, const int32_t* positions, float* sums, int64_t hidden_width, int64_t rows, int64_t slots) {
  const int64_t parts = weight_dot_parts(hidden_width);
  sum_dots<<<blocks_for(slots), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(dots, positions, sums, parts, rows, slots);
  check_launch("sum_weight_dots");
}

}  // namespace pimoe::cuda
