#pragma once

#include <string>

namespace pimoe {

/// @returns MPI's text for a code
std::string mpi_error_text(int code);

/// @throws CommError "where: text" unless `code` is MPI_SUCCESS
void check_mpi(int code, const std::string& where);

}  // namespace pimoe
