# pa_version.h: PA_VERSION, from project(). pa_commit.h: PA_COMMIT, the checked-out commit, empty outside a git
# checkout; looked up at every build and rewritten only when it differs.
if(CMAKE_SCRIPT_MODE_FILE)
  cmake_minimum_required(VERSION 3.24)
  if(EXISTS ${SOURCE}/.git)
    execute_process(COMMAND git describe --always --dirty --exclude=* WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit
                    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define PA_COMMIT \"@commit@\"\n" @ONLY)
  return()
endif()

file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/pa_version.h
     CONTENT "#define PA_VERSION \"@PROJECT_VERSION@\"\n" @ONLY)
set(header ${CMAKE_BINARY_DIR}/generated/pa_commit.h)
add_custom_target(pa_commit BYPRODUCTS ${header} COMMENT ""
                  COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR} -DHEADER=${header}
                          -P ${CMAKE_CURRENT_LIST_FILE})
