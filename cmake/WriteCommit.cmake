# cmake -DFOLDER=<repository> -DOUTPUT=FILE.cpp -P WriteCommit.cmake
# Writes the definition of built_commit() (src/bench/machine.h). The file changes only where the commit does, so that nothing is compiled in vain.
execute_process(COMMAND git -C ${FOLDER} describe --always --dirty --abbrev=7 --exclude=* OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
                RESULT_VARIABLE failed ERROR_QUIET)
if(failed)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "// Written by cmake/WriteCommit.cmake.
#include \"bench/machine.h\"

namespace pimoe {

std::string built_commit() { return \"${commit}\"; }

}  // namespace pimoe
")
