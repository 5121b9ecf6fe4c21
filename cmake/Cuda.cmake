# PA_CUDA: finds CUDA 13 or newer, NCCL and cuDNN. Leaves PA_CUDA_LIBRARIES empty if there is no compiler.
set(PA_CUDA_OLDEST 13)
if(DEFINED ENV{XDG_CACHE_HOME})
  set(cache $ENV{XDG_CACHE_HOME}/patrain)
else()
  set(cache $ENV{HOME}/.cache/patrain)
endif()

function(pa_nvcc_version nvcc version)
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE said ERROR_QUIET)
  if(said MATCHES "release ([0-9.]+)")
    set(${version} ${CMAKE_MATCH_1} PARENT_SCOPE)
  else()
    set(${version} none PARENT_SCOPE)
  endif()
endfunction()

# CMAKE_CUDA_COMPILER, CUDACXX and PA_CUDA_ROOT override the search, which takes the first toolkit that is new enough:
# setup_cuda.sh's, the system's, then those on the PATH, where a distribution's older one may come first.
if(PA_CUDA_ROOT)
  find_program(PA_NVCC nvcc PATHS ${PA_CUDA_ROOT}/bin NO_DEFAULT_PATH REQUIRED)
  pa_nvcc_version(${PA_NVCC} found)
  if(found VERSION_LESS PA_CUDA_OLDEST)
    unset(PA_NVCC CACHE) # so that the next run looks again
    message(FATAL_ERROR "PA_CUDA_ROOT: expected CUDA ${PA_CUDA_OLDEST} or newer in ${PA_CUDA_ROOT}, found ${found}")
  endif()
elseif(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND NOT PA_NVCC)
  string(REPLACE ":" ";" path "$ENV{PATH}")
  foreach(folder ${cache}/cuda/toolkit/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin ${path})
    if(NOT PA_NVCC AND EXISTS ${folder}/nvcc)
      pa_nvcc_version(${folder}/nvcc found)
      if(found VERSION_GREATER_EQUAL PA_CUDA_OLDEST)
        set(PA_NVCC ${folder}/nvcc CACHE FILEPATH "The CUDA compiler" FORCE)
      else()
        message(STATUS "${folder}/nvcc: expected CUDA ${PA_CUDA_OLDEST} or newer, found ${found}")
      endif()
    endif()
  endforeach()
endif()
if(PA_NVCC AND NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${PA_NVCC})
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  message(STATUS "CUDA ${PA_CUDA_OLDEST} or newer not found: building without it "
                 "(install it with scripts/setup_cuda.sh, or set PA_CUDA_ROOT)")
  return()
endif()

enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_ID STREQUAL NVIDIA AND CMAKE_CUDA_COMPILER_VERSION VERSION_LESS PA_CUDA_OLDEST)
  message(FATAL_ERROR "${CMAKE_CUDA_COMPILER}: expected CUDA ${PA_CUDA_OLDEST} or newer, "
                      "found ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -lineinfo")
find_package(CUDAToolkit REQUIRED)
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")
set(PA_CUDA_LIBRARIES CUDA::cudart_static CUDA::cublasLt)
if(PA_BUNDLE) # with two copies of the runtime, neither knows the other's kernels
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
  set(PA_CUDA_LIBRARIES CUDA::cudart CUDA::cublasLt)
endif()

find_path(PA_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${cache}/cuda/toolkit/include)
if(PA_NCCL_INCLUDE) # the library itself is loaded when a run has several ranks
  set_source_files_properties(cuda/nccl.c PROPERTIES COMPILE_DEFINITIONS PA_WITH_NCCL
                              INCLUDE_DIRECTORIES ${PA_NCCL_INCLUDE})
  list(APPEND PA_CUDA_LIBRARIES ${CMAKE_DL_LIBS})
else()
  message(STATUS "NCCL not found: a run uses one GPU (scripts/setup_cuda.sh installs it)")
endif()

find_path(PA_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_path(PA_CUDNN_FRONTEND cudnn_frontend.h
          HINTS ${CUDAToolkit_INCLUDE_DIRS} ${cache}/cuda/toolkit/include ${cache}/cudnn/frontend)
if(PA_CUDNN_INCLUDE AND PA_CUDNN_FRONTEND)
  enable_language(CXX)
  set(CMAKE_CXX_STANDARD 17)
  add_library(pa_cudnn OBJECT cuda/cudnn.cpp)
  target_include_directories(pa_cudnn SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS} ${PA_CUDNN_INCLUDE}
                             ${PA_CUDNN_FRONTEND})
  set_source_files_properties(cuda/attend.c PROPERTIES COMPILE_DEFINITIONS PA_WITH_CUDNN)
  list(APPEND PA_CUDA_LIBRARIES ${CMAKE_DL_LIBS})
else()
  message(STATUS "cuDNN or its frontend not found: using our own attention kernels only "
                 "(scripts/setup_cuda.sh installs both)")
endif()
