# What `cmake --install` copies.
include(GNUInstallDirs)
install(TARGETS ${PA_PROGRAMS})
