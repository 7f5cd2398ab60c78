# cmake --install BUILD --prefix PREFIX
#
#   bin/pimoe                          the binary
#   lib/libpimoe_*.a, include/pimoe    the library, for programs of your own: find_package(PiMoE), PiMoE::moe (examples)
#   share/pimoe                        configurations, launch scripts, examples, an environment module
#   share/bash-completion              completion of subcommands, options and configuration keys
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(exported base ops parallel moe data checkpoint model interop train serve)  # what other programs may build on; the rest serves the binary
list(TRANSFORM exported PREPEND pimoe_ OUTPUT_VARIABLE libraries)
install(TARGETS pimoe RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS ${libraries} EXPORT PiMoETargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(folder ${exported})
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/src/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pimoe FILES_MATCHING PATTERN *.h)
endforeach()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/PiMoE)
install(EXPORT PiMoETargets NAMESPACE PiMoE:: DESTINATION ${package})
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/PiMoEConfig.cmake.in ${CMAKE_BINARY_DIR}/PiMoEConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/PiMoEConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/PiMoEConfig.cmake ${CMAKE_BINARY_DIR}/PiMoEConfigVersion.cmake ${CMAKE_SOURCE_DIR}/cmake/Dependencies.cmake
        DESTINATION ${package})

set(share ${CMAKE_INSTALL_DATADIR}/pimoe)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/configs ${CMAKE_SOURCE_DIR}/examples DESTINATION ${share})
install(PROGRAMS ${CMAKE_SOURCE_DIR}/launch/slurm.sbatch ${CMAKE_SOURCE_DIR}/launch/supervise.sh ${CMAKE_SOURCE_DIR}/launch/parquet_to_jsonl.py
        DESTINATION ${share}/launch)
install(FILES ${CMAKE_SOURCE_DIR}/launch/common.sh ${CMAKE_SOURCE_DIR}/launch/grafana.json DESTINATION ${share}/launch)
install(FILES ${CMAKE_SOURCE_DIR}/launch/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME pimoe)
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
# The module sets paths of the prefix, which is known when it is installed: cmake --install may be given another one.
install(CODE "set(version ${PROJECT_VERSION})
  get_filename_component(prefix \"\${CMAKE_INSTALL_PREFIX}\" ABSOLUTE)
  configure_file(${CMAKE_SOURCE_DIR}/launch/packaging/modulefile.in \"\$ENV{DESTDIR}\${prefix}/${share}/modulefiles/pimoe/\${version}\" @ONLY)")
