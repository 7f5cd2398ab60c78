# Everything that PiMoE links and does not own, as imported targets. `launch/setup.sh` installs all of it. Whoever links an installed PiMoE reads
# this file too.
find_package(Threads REQUIRED)
set(MPI_CXX_SKIP_MPICXX ON)  # the C interface alone; the C++ one was deleted from MPI
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(yaml-cpp REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)

find_library(SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
find_library(SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train REQUIRED)
foreach(part sentencepiece sentencepiece_train)
  string(TOUPPER ${part} upper)
  add_library(${part} UNKNOWN IMPORTED)
  set_target_properties(${part} PROPERTIES IMPORTED_LOCATION ${${upper}_LIBRARY})
endforeach()

add_library(pimoe_hdf5 INTERFACE IMPORTED)
target_include_directories(pimoe_hdf5 INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_libraries(pimoe_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

# libtorch is linked by library name: find_package(Torch) asks for a CUDA toolkit even for a CPU-only program.
set(default_python python3)
if(DEFINED ENV{PIMOE_PYTHON})
  set(default_python $ENV{PIMOE_PYTHON})
elseif(EXISTS ${CMAKE_SOURCE_DIR}/.deps/python/bin/python3)
  set(default_python ${CMAKE_SOURCE_DIR}/.deps/python/bin/python3)
endif()
set(PIMOE_PYTHON ${default_python} CACHE STRING "A Python that has torch; its wheel is our libtorch")
if(NOT DEFINED PIMOE_TORCH_DIR)
  execute_process(COMMAND ${PIMOE_PYTHON} -c "import importlib.util as u; print(list(u.find_spec('torch').submodule_search_locations)[0])"
                  OUTPUT_VARIABLE PIMOE_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE torch_missing ERROR_QUIET)
  if(torch_missing)
    message(FATAL_ERROR "${PIMOE_PYTHON} has no torch package. Run launch/setup.sh, or pass -DPIMOE_PYTHON=<a Python with torch 2.11>.")
  endif()
endif()
message(STATUS "libtorch: ${PIMOE_TORCH_DIR}")

add_library(pimoe_torch INTERFACE IMPORTED)
target_include_directories(pimoe_torch INTERFACE
  ${PIMOE_TORCH_DIR}/include ${PIMOE_TORCH_DIR}/include/torch/csrc/api/include)
target_link_directories(pimoe_torch INTERFACE ${PIMOE_TORCH_DIR}/lib)
target_link_options(pimoe_torch INTERFACE -Wl,-rpath,${PIMOE_TORCH_DIR}/lib)
target_link_libraries(pimoe_torch INTERFACE torch_cpu c10 Threads::Threads)
# at::parallel_for is a plain loop where the compiler knows no OpenMP; the runtime must be the one that torch loads.
file(GLOB PIMOE_OPENMP_LIBRARY ${PIMOE_TORCH_DIR}/lib/libgomp*.so*)
if(NOT PIMOE_OPENMP_LIBRARY)
  set(PIMOE_OPENMP_LIBRARY gomp)
endif()

add_library(pimoe_nccl INTERFACE IMPORTED)
if(PIMOE_CUDA)
  find_package(CUDAToolkit REQUIRED)
  # --no-as-needed: the CUDA operators register themselves when the library is loaded; no symbol of ours asks for it.
  target_link_libraries(pimoe_torch INTERFACE -Wl,--no-as-needed torch_cuda c10_cuda -Wl,--as-needed CUDA::cudart)
  target_compile_definitions(pimoe_torch INTERFACE PIMOE_CUDA=1)
  # The NCCL that torch loads, headers too: two of them in one process is trouble.
  get_filename_component(site_packages ${PIMOE_TORCH_DIR} DIRECTORY)
  set(PIMOE_NCCL_DIR ${site_packages}/nvidia/nccl CACHE PATH "The NCCL that torch loads: include/nccl.h and lib/libnccl.so.2 in it")
  set(nccl ${PIMOE_NCCL_DIR})
  foreach(needed ${PIMOE_TORCH_DIR}/lib/libtorch_cuda.so ${nccl}/include/nccl.h ${nccl}/lib/libnccl.so.2)
    if(NOT EXISTS ${needed})
      message(FATAL_ERROR "A CUDA build needs ${needed}. Run PIMOE_CUDA=on launch/setup.sh, or configure with -DPIMOE_CUDA=OFF.")
    endif()
  endforeach()
  target_include_directories(pimoe_nccl INTERFACE ${nccl}/include)
  target_link_libraries(pimoe_nccl INTERFACE ${nccl}/lib/libnccl.so.2)
  target_link_options(pimoe_nccl INTERFACE -Wl,-rpath,${nccl}/lib)
endif()
