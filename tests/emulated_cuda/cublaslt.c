// A cuBLASLt without algorithms: a program that loads it has no candidates except its own kernels.
#include <stddef.h>
#include <stdint.h>

#define OBJECT(name, ...) \
    int cublasLt##name##Create(void **object, ##__VA_ARGS__) { return *object = (void *)16, 0; } \
    int cublasLt##name##Destroy(void *object) { return (void)object, 0; }
#define ATTRIBUTES(name) \
    int cublasLt##name##SetAttribute(void *object, int attribute, const void *value, size_t bytes) { \
        return (void)object, (void)attribute, (void)value, (void)bytes, 0; \
    }

OBJECT()
OBJECT(MatmulDesc, int compute, int scale)
OBJECT(MatrixLayout, int type, uint64_t rows, uint64_t columns, int64_t stride)
OBJECT(MatmulPreference)
ATTRIBUTES(MatmulDesc)
ATTRIBUTES(MatmulPreference)

size_t cublasLtGetVersion(void) { return 120205; }

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, void *results, int *found) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)wanted, (void)results;
    return *found = 0, 0;
}

// Not supported.
int cublasLtMatmulAlgoCheck(void) { return 15; }
int cublasLtMatmul(void) { return 15; }
