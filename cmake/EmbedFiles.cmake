# cmake -DHEADER=monitor/report_page.h -DTYPE=PageParts -DFUNCTION=page_parts -DPARTS=html=FILE,style=FILE,... -DOUTPUT=FILE.cpp -P EmbedFiles.cmake
# Writes the definition of a function that a header of ours declares: a page's parts, built into the binary. Called by pimoe_page (Floors.cmake).
set(members "")
string(REPLACE "," ";" parts "${PARTS}")
foreach(part ${parts})
  string(REGEX MATCH "^([a-z]+)=(.*)$" part "${part}")
  set(member ${CMAKE_MATCH_1})
  set(file ${CMAKE_MATCH_2})
  file(READ ${file} text)
  if(text MATCHES "\\)EMBED\"")
    message(FATAL_ERROR "${file}: has )EMBED\", which ends its literal")
  endif()
  string(APPEND members "      .${member} = R\"EMBED(${text})EMBED\",\n")
endforeach()
file(WRITE ${OUTPUT} "// Written by cmake/EmbedFiles.cmake.
#include \"${HEADER}\"

namespace pimoe {

${TYPE} ${FUNCTION}() {
  return {
${members}  };
}

}  // namespace pimoe
")
