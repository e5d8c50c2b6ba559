// The driver's own library, which libtorch and the doctor ask directly.
#include "stub.h"

#include <stdio.h>

int cuInit(unsigned flags) {
    (void)flags;
    return fails("cuInit");
}

int cuDriverGetVersion(int *version) {
    *version = version_of_driver();
    return 0;
}

int cuDeviceGet(int *device, int index) {
    *device = index;
    return 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    snprintf(name, (size_t)length, "%s", NAME);
    return 0;
}

// libtorch uses a GPU's memory only after asking whether this process uses the GPU at all.
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    (void)device;
    *flags = 0;
    *is_active = 1;
    return 0;
}

int cuCtxGetCurrent(pointer *context) {
    static char current;
    *context = &current;
    return 0;
}

int cuGetErrorString(int code, const char **text) {
    *text = cudaGetErrorString(code);
    return 0;
}
