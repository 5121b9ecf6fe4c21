# What `cmake --install` copies; the target `programs` builds all of it. Also the Debian package: cpack, in the build
# folder.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_custom_target(programs DEPENDS ${PA_PROGRAMS})
install(TARGETS ${PA_PROGRAMS})

# Manual pages and completions, from the programs' own option tables.
foreach(program ${PA_PROGRAMS})
  set(pages)
  foreach(page man:${program}.1:man/man1 bash:${program}:bash-completion/completions zsh:_${program}:zsh/site-functions)
    string(REPLACE ":" ";" page ${page})
    list(GET page 0 kind)
    list(GET page 1 name)
    list(GET page 2 folder)
    set(file ${CMAKE_BINARY_DIR}/pages/${kind}/${name})
    add_custom_command(OUTPUT ${file} DEPENDS ${program} VERBATIM COMMENT ""
                       COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/pages/${kind}
                       COMMAND sh -c "$<TARGET_FILE:${program}> --help=${kind} > '${file}'")
    list(APPEND pages ${file})
    install(FILES ${file} DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/${folder})
  endforeach()
  add_custom_target(${program}_pages ALL DEPENDS ${pages})
  add_dependencies(programs ${program}_pages)
endforeach()

install(DIRECTORY configs docs DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/patrain)
# Models by name (host/files/model_path.h): programs look beside themselves, so a build tree gets a link.
install(DIRECTORY models DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/patrain OPTIONAL)
if(NOT CMAKE_BINARY_DIR STREQUAL CMAKE_SOURCE_DIR)
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/models ${CMAKE_BINARY_DIR}/models SYMBOLIC)
endif()
install(FILES README.md CHANGELOG.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The library, its header, pkg-config's file and CMake's package.
if(TARGET patrain_shared)
  add_dependencies(programs patrain_shared patrain_static)
  install(TARGETS patrain_shared patrain_static EXPORT patrain)
  install(FILES include/patrain.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  set(package ${CMAKE_INSTALL_LIBDIR}/cmake/patrain)
  install(EXPORT patrain NAMESPACE patrain:: FILE patrainTargets.cmake DESTINATION ${package})
  configure_file(cmake/patrainConfig.cmake.in patrainConfig.cmake COPYONLY)
  write_basic_package_version_file(patrainConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/patrainConfig.cmake ${CMAKE_BINARY_DIR}/patrainConfigVersion.cmake
        DESTINATION ${package})

  set(PA_PC_LIBS)
  foreach(library ${PA_STATIC_LIBRARIES})
    if(NOT IS_ABSOLUTE ${library})
      string(PREPEND library -l)
    endif()
    string(APPEND PA_PC_LIBS " ${library}")
  endforeach()
  file(RELATIVE_PATH PA_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(cmake/patrain.pc.in patrain.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/patrain.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "patrain's developers <patrain@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION sound)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS openmpi-bin)
include(CPack)
