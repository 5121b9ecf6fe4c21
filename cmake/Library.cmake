# patrain_shared and patrain_static, made of the programs' objects.
get_property(objects GLOBAL PROPERTY PA_OBJECTS)
list(APPEND objects pa_core)

set(map ${CMAKE_SOURCE_DIR}/cmake/libpatrain.map)
add_library(patrain_shared SHARED)
target_link_libraries(patrain_shared PRIVATE ${objects})
target_link_options(patrain_shared PRIVATE LINKER:--version-script=${map} LINKER:--gc-sections LINKER:-z,nodelete
                    LINKER:--as-needed)
set_target_properties(patrain_shared PROPERTIES OUTPUT_NAME patrain VERSION ${PROJECT_VERSION} SOVERSION ${PA_ABI}
                      LINK_DEPENDS ${map} LINKER_LANGUAGE C)

set(object_files)
foreach(target ${objects})
  list(APPEND object_files $<TARGET_OBJECTS:${target}>)
endforeach()
find_program(PA_GNU_LD NAMES ld.bfd ld REQUIRED) # CMAKE_LINKER may be lld, which keeps section groups
# Without section groups, which a linker would merge with those of the program.
set(object ${CMAKE_BINARY_DIR}/libpatrain.o)
add_custom_command(OUTPUT ${object} DEPENDS ${object_files} COMMAND_EXPAND_LISTS VERBATIM COMMENT "Linking libpatrain.o"
                   COMMAND ${PA_GNU_LD} -r --force-group-allocation -o ${object} ${object_files}
                   COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=patrain_* ${object})
add_library(patrain_static STATIC ${object})
set_target_properties(patrain_static PROPERTIES OUTPUT_NAME patrain LINKER_LANGUAGE C)

# What a program that links the static one also needs.
set(PA_STATIC_LIBRARIES smf glib-2.0 inih cjson dnnl ${OpenMP_C_LIB_NAMES} m)
if(PA_CUDA_LIBRARIES)
  list(APPEND PA_STATIC_LIBRARIES ${CUDAToolkit_LIBRARY_DIR}/libcublasLt.so
       ${CUDAToolkit_LIBRARY_DIR}/libcudart_static.a dl rt stdc++)
endif()
target_link_libraries(patrain_static INTERFACE ${PA_STATIC_LIBRARIES})
foreach(name ${OpenMP_C_LIB_NAMES}) # clang's stands outside the linker's folders
  cmake_path(GET OpenMP_${name}_LIBRARY PARENT_PATH folder)
  target_link_directories(patrain_static INTERFACE $<BUILD_INTERFACE:${folder}>)
endforeach()

foreach(library patrain_shared patrain_static)
  target_include_directories(${library} INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>
                             $<INSTALL_INTERFACE:include>)
endforeach()
set_target_properties(patrain_shared PROPERTIES EXPORT_NAME patrain)
set_target_properties(patrain_static PROPERTIES EXPORT_NAME static)
