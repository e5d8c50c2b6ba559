// Errors, devices and memory.
#define _GNU_SOURCE
#include "stub.h"

#include <driver_types.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// --- errors ----------------------------------------------------------------------------------------------------------

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
    char name[64];
    int code, from, calls;
} injected[16];
static int injections = -1, sticky;
__thread int last;

static int number_of(const char *variable, int otherwise) {
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

// Whether this is the process of another rank than 0, whose first argument is `rank`.
static int is_other_rank(void) {
    char line[4096] = {0};
    FILE *file = fopen("/proc/self/cmdline", "r");
    if (!file) return 0;
    const size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    const size_t program = strlen(line) + 1;
    return program < length && !strcmp(line + program, "rank");
}

static void read_injections(void) {
    const char *of_ranks = getenv("CUDA_STUB_RANK_ERRORS");
    const char *text = of_ranks && is_other_rank() ? of_ranks : getenv("CUDA_STUB_ERRORS");
    injections = 0;
    while (text && *text && injections < 16) {
        char name[64];
        int code = 0, from = 1;
        if (sscanf(text, "%63[^=,]=%d@%d", name, &code, &from) >= 2) {
            strcpy(injected[injections].name, name);
            injected[injections].code = code;
            injected[injections].from = from;
            injections++;
        }
        text = strchr(text, ',');
        if (text) text++;
    }
}

int fails(const char *name) {
    pthread_mutex_lock(&lock);
    if (injections < 0) read_injections();
    int code = sticky;
    for (int i = 0; i < injections && !code; i++)
        if (!strcmp(injected[i].name, name) && ++injected[i].calls >= injected[i].from) code = injected[i].code;
    if (code == ECC || code == ILLEGAL_ADDRESS) sticky = code;
    pthread_mutex_unlock(&lock);
    return code;
}

int cudaPeekAtLastError(void) { return sticky ? sticky : last; }

int cudaGetLastError(void) {
    const int code = cudaPeekAtLastError();
    last = 0;
    return code;
}

const char *cudaGetErrorString(int code) {
    switch (code) {
    case 0: return "no error";
    case OUT_OF_MEMORY: return "out of memory";
    case 35: return "CUDA driver version is insufficient for CUDA runtime version";
    case 46: return "CUDA-capable device(s) is/are busy or unavailable";
    case 100: return "no CUDA-capable device is detected";
    case 101: return "invalid device ordinal";
    case 209: return "no kernel image is available for execution on the device";
    case ECC: return "uncorrectable ECC error encountered";
    case ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
    case 719: return "unspecified launch failure";
    case 802: return "system not yet initialized";
    case UNSUPPORTED_IN_CAPTURE: return "operation not permitted when stream is capturing";
    case INVALIDATED: return "operation failed due to a previous error during capture";
    default: return "an injected error";
    }
}

const char *cudaGetErrorName(int code) { return cudaGetErrorString(code); }

// --- what looks for a driver -----------------------------------------------------------------------------------------

// The trainer looks for the driver's device file. Declared here, since sys/stat.h says that no path is null, and Rust's
// library asks about null first to find out whether the kernel has this call.
int statx(int directory, const char *path, int flags, unsigned mask, pointer found);

int statx(int directory, const char *path, int flags, unsigned mask, pointer found) {
    if (path && !strcmp(path, "/dev/nvidiactl")) path = "/dev/null";
    return (int)syscall(SYS_statx, directory, path, flags, mask, found);
}

static long nothing(void) { return 0; }

int cudaGetDriverEntryPointByVersion(const char *name, pointer *function, unsigned version, unsigned long long flags,
                                     int *result) {
    (void)name, (void)version, (void)flags;
    *function = (pointer)nothing;
    if (result) *result = 0;
    return 0;
}

int version_of_driver(void) { return number_of("CUDA_STUB_DRIVER", 13000); }

int cudaDriverGetVersion(int *version) {
    *version = version_of_driver();
    return 0;
}

int cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return 0;
}

// --- devices ---------------------------------------------------------------------------------------------------------

static __thread int current;

static size_t memory_of_a_device(void) {
    const char *text = getenv("CUDA_STUB_MEMORY");
    return text ? strtoull(text, NULL, 10) : (size_t)8 << 30;
}

int cudaGetDeviceCount(int *count) {
    *count = 0;
    ENTER("cudaGetDeviceCount");
    *count = number_of("CUDA_STUB_DEVICES", 1);
    return 0;
}

int cudaGetDevice(int *device) {
    *device = current;
    return 0;
}

int cudaSetDevice(int device) {
    ENTER("cudaSetDevice");
    if (device < 0 || device >= number_of("CUDA_STUB_DEVICES", 1)) return last = 101;
    current = device;
    return 0;
}

int cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    (void)device;
    memset(found, 0, sizeof *found);
    strcpy(found->name, NAME);
    found->totalGlobalMem = memory_of_a_device();
    found->major = 9;
    found->multiProcessorCount = 132;
    found->warpSize = 32;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsPerMultiProcessor = 2048;
    found->sharedMemPerBlock = 49152;
    found->sharedMemPerBlockOptin = 232448;
    found->sharedMemPerMultiprocessor = 233472;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->totalConstMem = 65536;
    found->textureAlignment = 512;
    found->l2CacheSize = 50 << 20;
    for (int i = 0; i < 3; i++) {
        found->maxThreadsDim[i] = i < 2 ? 1024 : 64;
        found->maxGridSize[i] = i ? 65535 : 2147483647;
    }
    return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    struct cudaDeviceProp properties;
    cudaGetDeviceProperties(&properties, device);
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)properties.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)properties.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxGridDimX: *value = properties.maxGridSize[0]; break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    default: *value = 0;
    }
    return 0;
}

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return 0;
}

int cudaDeviceCanAccessPeer(int *can, int device, int other) {
    (void)device, (void)other;
    *can = 0;
    return 0;
}

int cudaDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, (size_t)length, "0000:%02x:00.0", device);
    return 0;
}

// --- memory ----------------------------------------------------------------------------------------------------------

static struct Block {
    char *start;
    size_t size;
    int device; // -1: pinned memory of the host
    struct Block *next;
} *blocks;

static size_t used_on(int device) {
    size_t used = 0;
    for (struct Block *block = blocks; block; block = block->next)
        if (block->device == device) used += block->size;
    return used;
}

static int allocate(pointer *made, size_t size, int device) {
    *made = NULL;
    pthread_mutex_lock(&lock);
    const int fits = device < 0 || used_on(device) + size <= memory_of_a_device();
    struct Block *block = fits ? malloc(sizeof *block) : NULL;
    if (block) {
        *block = (struct Block){aligned_alloc(512, (size + 511) / 512 * 512 + 512), size, device, blocks};
        memset(block->start, 0, size);
        *made = block->start;
        blocks = block;
    }
    pthread_mutex_unlock(&lock);
    return block ? 0 : (last = OUT_OF_MEMORY);
}

static int release(pointer start) {
    pthread_mutex_lock(&lock);
    for (struct Block **block = &blocks; *block; block = &(*block)->next)
        if ((*block)->start == start) {
            struct Block *found = *block;
            *block = found->next;
            free(found->start);
            free(found);
            break;
        }
    pthread_mutex_unlock(&lock);
    return 0;
}

int device_of(const void *address) {
    int device = -2;
    pthread_mutex_lock(&lock);
    for (struct Block *block = blocks; block; block = block->next)
        if ((const char *)address >= block->start && (const char *)address < block->start + block->size)
            device = block->device;
    pthread_mutex_unlock(&lock);
    return device;
}

int cudaMalloc(pointer *made, size_t size) {
    ENTER("cudaMalloc");
    return allocate(made, size, current);
}

int cudaMallocAsync(pointer *made, size_t size, pointer stream) {
    (void)stream;
    return cudaMalloc(made, size);
}

int cudaHostAlloc(pointer *made, size_t size, unsigned flags) {
    (void)flags;
    ENTER("cudaHostAlloc");
    return allocate(made, size, -1);
}

int cudaFree(pointer start) { return release(start); }
int cudaFreeHost(pointer start) { return release(start); }
int cudaFreeAsync(pointer start, pointer stream) {
    (void)stream;
    return release(start);
}

int cudaMemGetInfo(size_t *available, size_t *total) {
    ENTER("cudaMemGetInfo");
    pthread_mutex_lock(&lock);
    *total = memory_of_a_device();
    *available = *total - used_on(current);
    pthread_mutex_unlock(&lock);
    return 0;
}

int cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
    const int device = device_of(address);
    memset(found, 0, sizeof *found);
    found->type = device >= 0 ? cudaMemoryTypeDevice : device == -1 ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    found->device = device >= 0 ? device : 0;
    found->devicePointer = found->hostPointer = (pointer)address;
    return 0;
}

static char symbol[1 << 16];

int cudaGetSymbolAddress(pointer *address, const void *name) {
    (void)name;
    *address = symbol;
    return 0;
}
