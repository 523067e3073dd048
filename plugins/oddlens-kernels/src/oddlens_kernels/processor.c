// Whether the processor and the system can run network.c. Built for any x86-64 processor, unlike network.c.

int kernels_processor(void) {  // 0: no; 1: yes; 2: yes, and it has a matrix unit (AMX)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512bf16")))
        return 0;
    return __builtin_cpu_supports("amx-tile") ? 2 : 1;
}
