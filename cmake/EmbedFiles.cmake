# cmake -DPAGE=src/monitor/page -DCHARTS=FILE.js -DOUTPUT=FILE.cpp -P EmbedFiles.cmake
# Writes the definition of page_parts() (src/monitor/report_page.h): the report's page, its style and scripts, built into the binary.
function(read_literal variable file)
  file(READ ${file} text)
  if(text MATCHES "\\)EMBED\"")
    message(FATAL_ERROR "${file}: has )EMBED\", which ends its literal")
  endif()
  set(${variable} "R\"EMBED(${text})EMBED\"" PARENT_SCOPE)
endfunction()
read_literal(html ${PAGE}/report.html)
read_literal(style ${PAGE}/report.css)
read_literal(script ${PAGE}/report.js)
read_literal(charts ${CHARTS})
file(WRITE ${OUTPUT} "// Written by cmake/EmbedFiles.cmake.
#include \"monitor/report_page.h\"

namespace pimoe {

PageParts page_parts() {
  return {
      .html = ${html},
      .style = ${style},
      .script = ${script},
      .charts = ${charts},
  };
}

}  // namespace pimoe
")
