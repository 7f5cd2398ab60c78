# pimoe_precompiled(TARGET HEADERS): with PIMOE_PRECOMPILED, libtorch's headers and others that most files read are compiled once for all targets that take
# them: of a file of a library 9 seconds become 3, of a test 22 become 9. For builds from nothing: what does not include all that it uses compiles here,
# and ccache keeps what was compiled with such headers only where CCACHE_SLOPPINESS allows it (.ci/run).
#
# pimoe_headers       libtorch and JSON, for the libraries
# pimoe_test_headers  these and GoogleTest, for test programs (tests/CMakeLists.txt)
option(PIMOE_PRECOMPILED "Compile libtorch's headers once for many targets: for builds from nothing" OFF)

# pimoe_precompiled_headers(NAME LINKS library... HEADERS header...)
function(pimoe_precompiled_headers name)
  if(NOT PIMOE_PRECOMPILED)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LINKS;HEADERS" ${ARGN})
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/${name}.cpp CONTENT "// For cmake/Precompiled.cmake: a target must have a file.\n")
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/${name}.cpp)
  target_link_libraries(${name} PRIVATE pimoe_options ${ARG_LINKS})
  target_precompile_headers(${name} PRIVATE ${ARG_HEADERS})
  pimoe_unity(${name})  # for its compile options, which must be those of whoever uses the headers
endfunction()

function(pimoe_precompiled target headers)
  if(NOT PIMOE_PRECOMPILED)
    return()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${headers})
  get_target_property(sources ${target} SOURCES)
  foreach(source ${sources})
    get_source_file_property(options ${source} COMPILE_OPTIONS)
    if(options)  # compiled otherwise than the headers were
      set_source_files_properties(${source} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    endif()
  endforeach()
endfunction()

pimoe_precompiled_headers(pimoe_headers LINKS pimoe_torch nlohmann_json::nlohmann_json HEADERS <ATen/ATen.h> <nlohmann/json.hpp>)
