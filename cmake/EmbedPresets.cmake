# cmake -DFOLDER=configs/presets -DOUTPUT=FILE.cpp -P EmbedPresets.cmake
# Writes the definition of presets() (src/train/presets.h) from the .yaml files of a folder.
file(GLOB files ${FOLDER}/*.yaml)  # sorted
set(entries "")
foreach(file ${files})
  cmake_path(GET file STEM name)
  file(READ ${file} yaml)
  if(yaml MATCHES "\\)PRESET\"")
    message(FATAL_ERROR "${file}: has )PRESET\", which ends its literal")
  endif()
  string(APPEND entries "    {\"${name}\", R\"PRESET(${yaml})PRESET\"},\n")
endforeach()
file(WRITE ${OUTPUT} "// Written by cmake/EmbedPresets.cmake from configs/presets.
#include \"train/presets.h\"

namespace pimoe {
namespace {

constexpr Preset kPresets[] = {
${entries}};

}  // namespace

std::span<const Preset> presets() { return kPresets; }

}  // namespace pimoe
")
