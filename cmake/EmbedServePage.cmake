# cmake -DPAGE=src/serve/page -DOUTPUT=FILE.cpp -P EmbedServePage.cmake
# Writes the definition of serve_page_parts() (src/serve/serve_page.h): the server's page, its style and script, built into the binary.
function(read_literal variable file)
  file(READ ${file} text)
  if(text MATCHES "\\)EMBED\"")
    message(FATAL_ERROR "${file}: has )EMBED\", which ends its literal")
  endif()
  set(${variable} "R\"EMBED(${text})EMBED\"" PARENT_SCOPE)
endfunction()
read_literal(html ${PAGE}/serve.html)
read_literal(style ${PAGE}/serve.css)
read_literal(script ${PAGE}/serve.js)
file(WRITE ${OUTPUT} "// Written by cmake/EmbedServePage.cmake.
#include \"serve/serve_page.h\"

namespace pimoe {

ServePageParts serve_page_parts() {
  return {
      .html = ${html},
      .style = ${style},
      .script = ${script},
  };
}

}  // namespace pimoe
")
