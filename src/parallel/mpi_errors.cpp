#include "parallel/mpi_errors.h"

#include "base/errors.h"
#include "base/text.h"

#include <mpi.h>

namespace pimoe {

std::string mpi_error_text(int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, static_cast<size_t>(length));
}

void check_mpi(int code, const std::string& where) {
  if (code != MPI_SUCCESS) throw CommError(concat(where, ": ", mpi_error_text(code)));
}

}  // namespace pimoe
