// NCCL: every rank receives from itself.
#include "stub.h"

#include <string.h>

struct Communicator {
    int rank, count;
};

struct Id {
    char bytes[128];
};

int ncclGetVersion(int *version) {
    *version = 22809;
    return 0;
}

const char *ncclGetErrorString(int status) { return status ? "unhandled cuda error" : "no error"; }

const char *ncclGetLastError(pointer communicator) {
    (void)communicator;
    return "";
}

static int join(struct Communicator **made, int count, int rank) {
    static struct Communicator all[16];
    static int number;
    *made = &all[number++ % 16];
    **made = (struct Communicator){rank, count};
    return fails("ncclCommInitRank");
}

int ncclCommInitRank(struct Communicator **made, int count, struct Id id, int rank) {
    (void)id;
    return join(made, count, rank);
}

int ncclCommInitRankConfig(struct Communicator **made, int count, struct Id id, int rank, pointer settings) {
    (void)id, (void)settings;
    return join(made, count, rank);
}

int ncclCommInitRankScalable(struct Communicator **made, int count, int rank, int ids, pointer id, pointer settings) {
    (void)ids, (void)id, (void)settings;
    return join(made, count, rank);
}

int ncclCommCount(const struct Communicator *of, int *count) {
    *count = of->count;
    return 0;
}

int ncclCommUserRank(const struct Communicator *of, int *rank) {
    *rank = of->rank;
    return 0;
}

int ncclCommGetAsyncError(pointer of, int *status) {
    (void)of;
    *status = 0;
    return 0;
}

static size_t bytes(size_t count, int type) {
    static const char sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return count * (size_t)sizes[type];
}

int ncclBroadcast(const void *from, pointer to, size_t count, int type, int root, pointer communicator, pointer stream) {
    (void)root, (void)communicator, (void)stream;
    if (from != to) memcpy(to, from, bytes(count, type));
    return fails("ncclBroadcast");
}

int ncclBcast(pointer both, size_t count, int type, int root, pointer communicator, pointer stream) {
    return ncclBroadcast(both, both, count, type, root, communicator, stream);
}

int ncclAllReduce(const void *from, pointer to, size_t count, int type, int how, pointer communicator, pointer stream) {
    (void)how, (void)communicator, (void)stream;
    if (from != to) memcpy(to, from, bytes(count, type));
    return fails("ncclAllReduce");
}

int ncclAllGather(const void *from, char *to, size_t count, int type, const struct Communicator *among, pointer stream) {
    (void)stream;
    const size_t size = bytes(count, type);
    for (int rank = 0; rank < among->count; rank++) memmove(to + size * (size_t)rank, from, size);
    return fails("ncclAllGather");
}
