// Streams, events and graphs; copies and kernels.
#include "stub.h"

#include <driver_types.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// --- streams, events and graphs --------------------------------------------------------------------------------------

struct Stream {
    int captures, is_broken;
};

static struct Stream default_stream;
static int capturing; // streams that are recorded
static unsigned long long captures;

static struct Stream *stream_of(pointer stream) {
    // 0, 1 and 2 are names of the default stream.
    return (uintptr_t)stream < 3 ? &default_stream : stream;
}

// Fails where a stream is recorded, and breaks the recording.
static int forbidden(struct Stream *stream) {
    if (!stream->captures) return 0;
    stream->is_broken = 1;
    return last = UNSUPPORTED_IN_CAPTURE;
}

int cudaStreamCreateWithPriority(pointer *made, unsigned flags, int priority) {
    (void)flags, (void)priority;
    ENTER("cudaStreamCreateWithPriority");
    *made = calloc(1, sizeof(struct Stream));
    return 0;
}

int cudaStreamDestroy(pointer stream) {
    if (stream_of(stream) != &default_stream) free(stream);
    return 0;
}

int cudaStreamSynchronize(pointer stream) {
    ENTER("synchronize");
    return forbidden(stream_of(stream));
}

int cudaDeviceSynchronize(void) {
    ENTER("synchronize");
    return capturing ? (last = UNSUPPORTED_IN_CAPTURE) : 0;
}

int cudaEventSynchronize(pointer event) {
    (void)event;
    ENTER("synchronize");
    return capturing ? (last = UNSUPPORTED_IN_CAPTURE) : 0;
}

int cudaStreamBeginCapture(pointer stream, int mode) {
    (void)mode;
    ENTER("cudaStreamBeginCapture");
    *stream_of(stream) = (struct Stream){1, 0};
    capturing++;
    captures++;
    return 0;
}

static int status_of(const struct Stream *stream) { return stream->captures ? 1 + stream->is_broken : 0; }

int cudaStreamIsCapturing(pointer stream, int *status) {
    *status = status_of(stream_of(stream));
    return 0;
}

int cudaStreamGetCaptureInfo(pointer stream, int *status, unsigned long long *id, pointer *graph, pointer *before,
                             pointer *edges, size_t *count) {
    *status = status_of(stream_of(stream));
    if (id) *id = captures;
    if (graph) *graph = NULL;
    if (before) *before = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return 0;
}

int cudaStreamEndCapture(pointer of, pointer *graph) {
    struct Stream *stream = stream_of(of);
    const int was_broken = stream->is_broken;
    if (stream->captures) capturing--;
    *stream = (struct Stream){0, 0};
    *graph = NULL;
    ENTER("cudaStreamEndCapture");
    if (was_broken) return last = INVALIDATED;
    *graph = malloc(1);
    return 0;
}

int cudaGraphInstantiateWithFlags(pointer *made, pointer graph, unsigned long long flags) {
    (void)graph, (void)flags;
    ENTER("cudaGraphInstantiateWithFlags");
    *made = malloc(1);
    return 0;
}

int cudaGraphGetNodes(pointer graph, pointer *nodes, size_t *count) {
    (void)graph, (void)nodes;
    *count = 1;
    return 0;
}

int cudaGraphLaunch(pointer graph, pointer stream) {
    (void)graph, (void)stream;
    ENTER("cudaGraphLaunch");
    return 0;
}

int cudaGraphDestroy(pointer graph) {
    free(graph);
    return 0;
}

int cudaGraphExecDestroy(pointer graph) {
    free(graph);
    return 0;
}

int cudaEventCreateWithFlags(pointer *made, unsigned flags) {
    (void)flags;
    *made = malloc(1);
    return 0;
}

int cudaEventCreate(pointer *made) { return cudaEventCreateWithFlags(made, 0); }

int cudaEventDestroy(pointer event) {
    free(event);
    return 0;
}

int cudaEventElapsedTime(float *milliseconds, pointer begun, pointer ended) {
    (void)begun, (void)ended;
    *milliseconds = 1;
    return 0;
}

// --- copies ----------------------------------------------------------------------------------------------------------

int cudaMemcpyAsync(pointer to, const void *from, size_t size, int kind, pointer stream) {
    (void)kind;
    ENTER("cudaMemcpyAsync");
    // A replay would read, or write, whatever is at the host's address then.
    if ((device_of(to) < 0 || device_of(from) < 0) && forbidden(stream_of(stream))) return last;
    memmove(to, from, size);
    return 0;
}

int cudaMemcpy(pointer to, const void *from, size_t size, int kind) {
    (void)kind;
    ENTER("cudaMemcpy");
    if (capturing) return last = UNSUPPORTED_IN_CAPTURE;
    memmove(to, from, size);
    return 0;
}

int cudaMemcpyPeerAsync(pointer to, int device, const void *from, int other, size_t size, pointer stream) {
    (void)device, (void)other, (void)stream;
    memmove(to, from, size);
    return 0;
}

int cudaMemsetAsync(pointer start, int value, size_t size, pointer stream) {
    (void)stream;
    memset(start, value, size);
    return 0;
}

int cudaMemset(pointer start, int value, size_t size) { return cudaMemsetAsync(start, value, size, NULL); }

// --- kernels ---------------------------------------------------------------------------------------------------------

static pointer binary;

pointer *__cudaRegisterFatBinary(pointer code) {
    (void)code;
    return &binary;
}

int __cudaGetKernel(pointer *kernel, const void *function) {
    *kernel = (pointer)function;
    return 0;
}

int __cudaLaunchKernel(void) {
    ENTER("launch");
    return 0;
}

int cudaLaunchKernel(void) { return __cudaLaunchKernel(); }
int cudaLaunchKernelExC(void) { return __cudaLaunchKernel(); }

int cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
    (void)function;
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 32;
    found->ptxVersion = found->binaryVersion = 90;
    found->maxDynamicSharedSizeBytes = 49152;
    return 0;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *function, int threads,
                                                           size_t shared, unsigned flags) {
    (void)function, (void)threads, (void)shared, (void)flags;
    *count = 2;
    return 0;
}
