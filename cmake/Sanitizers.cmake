# PA_SANITIZE and PA_FUZZ: sanitizers in everything but the fuzzers' vector code. With line numbers only, as their
# reports need.
if(PA_SANITIZE)
  set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g1")
  add_compile_options(-fsanitize=${PA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  if(CMAKE_C_COMPILER_ID STREQUAL GNU)
    add_compile_options(-Wno-format-truncation -Wno-maybe-uninitialized) # false alarms in instrumented code
  endif()
  add_link_options(-fsanitize=${PA_SANITIZE})
  set(PA_SANITIZE_SIMD -O1) # of vector code and kernels, half of whose compilation -O2 would be
endif()
if(PA_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  set(PA_SANITIZE_SIMD -fno-sanitize=all) # no fuzzer reaches it, and instrumented it takes minutes to compile
endif()
