# PA_EMULATOR: the CUDA backend compiled as host C++ against tests/emulator, which stands in for CUDA, cuBLASLt, cuDNN
# and NCCL.
enable_language(CXX)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO ${CMAKE_C_FLAGS_RELWITHDEBINFO})
set(PA_KERNEL_OPTIONS -x c++ -Wno-unknown-pragmas -Wno-sign-compare -fno-strict-aliasing ${PA_SANITIZE_SIMD})
add_library(emulator STATIC
  tests/emulator/block.cpp
  tests/emulator/cublaslt.cpp
  tests/emulator/cudnn.cpp
  tests/emulator/fiber.cpp
  tests/emulator/gpus.cpp
  tests/emulator/nccl.cpp
  tests/emulator/runtime.cpp
  tests/emulator/twins.cpp)
target_include_directories(emulator SYSTEM PUBLIC tests/emulator/include)
target_compile_definitions(emulator PUBLIC PA_EMULATOR)
target_link_libraries(emulator PUBLIC ${DNNL_LIBRARY})
set_source_files_properties(${PA_CUDA_KERNELS} bench/ladder.cu PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${PA_KERNEL_OPTIONS}")
set(PA_CUDA_LIBRARIES emulator)
if(MPI_C_FOUND) # its NCCL is MPI
  target_compile_definitions(emulator PRIVATE PA_WITH_MPI)
  target_link_libraries(emulator PUBLIC MPI::MPI_C)
  set_source_files_properties(cuda/nccl.c PROPERTIES COMPILE_DEFINITIONS PA_WITH_NCCL)
endif()
set_source_files_properties(cuda/attend.c PROPERTIES COMPILE_DEFINITIONS PA_WITH_CUDNN) # its stand-in
