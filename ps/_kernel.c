/* Kernel: sgd, momentum and nesterov over a stretch of memory that is read and written once, whatever number of
 * gradients is applied, with a copy of the weights after each.
 *
 * The equations are those of ps/rules.py, and every operation rounds where torch's does:
 *
 *     h <- fma(w, lambda, g)            g itself where lambda is 0
 *     v <- fma(h, -alpha, mu * v)
 *     w <- w + v                                       momentum
 *     w <- fma(h, -alpha, fma(v, mu, w))               nesterov
 *     w <- fma(h, -alpha, w)                           sgd, which has no v
 *
 * And stochastic rounding to bfloat16, as ps/rounding.py has it.
 *
 * A copy that is larger than a cache goes past it to memory: nobody here reads it, and what is written the ordinary way
 * is read first. Needs AVX2 and FMA at run time; elsewhere the module does not import, and torch does the work.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <stdint.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define EACH static inline __attribute__((always_inline, target("avx2,fma")))

enum { WIDTH = 8, STREAMED_BYTES = 1 << 20 };
typedef enum { SGD, MOMENTUM, NESTEROV, KINDS } Kind;

typedef struct {
    float mu, minus_alpha, lambda;
    const float *g;
    float *out; /* NULL: no copy */
} Update;

EACH void step(Kind kind, const Update *u, __m256 g, __m256 *w, __m256 *v)
{
    __m256 minus_alpha = _mm256_set1_ps(u->minus_alpha), mu = _mm256_set1_ps(u->mu);
    __m256 h = u->lambda == 0.0f ? g : _mm256_fmadd_ps(*w, _mm256_set1_ps(u->lambda), g);
    if (kind == SGD) {
        *w = _mm256_fmadd_ps(h, minus_alpha, *w);
        return;
    }
    *v = _mm256_fmadd_ps(h, minus_alpha, _mm256_mul_ps(*v, mu));
    if (kind == MOMENTUM)
        *w = _mm256_add_ps(*w, *v);
    else
        *w = _mm256_fmadd_ps(h, minus_alpha, _mm256_fmadd_ps(*v, mu, *w));
}

/* Whole vectors from the beginning; returns how many elements that were. */
EACH size_t vectors(Kind kind, int streamed, float *w, float *v, size_t elements, const Update *updates, size_t count)
{
    size_t i = 0;
    for (; i + 2 * WIDTH <= elements; i += 2 * WIDTH) {
        __m256 w_0 = _mm256_loadu_ps(w + i), w_1 = _mm256_loadu_ps(w + i + WIDTH), v_0 = w_0, v_1 = w_1;
        if (kind != SGD) {
            v_0 = _mm256_loadu_ps(v + i);
            v_1 = _mm256_loadu_ps(v + i + WIDTH);
        }
        for (size_t k = 0; k < count; k++) {
            const Update *u = updates + k;
            step(kind, u, _mm256_loadu_ps(u->g + i), &w_0, &v_0);
            step(kind, u, _mm256_loadu_ps(u->g + i + WIDTH), &w_1, &v_1);
            if (!u->out)
                continue;
            if (streamed) {
                _mm256_stream_ps(u->out + i, w_0);
                _mm256_stream_ps(u->out + i + WIDTH, w_1);
            } else {
                _mm256_storeu_ps(u->out + i, w_0);
                _mm256_storeu_ps(u->out + i + WIDTH, w_1);
            }
        }
        _mm256_storeu_ps(w + i, w_0);
        _mm256_storeu_ps(w + i + WIDTH, w_1);
        if (kind != SGD) {
            _mm256_storeu_ps(v + i, v_0);
            _mm256_storeu_ps(v + i + WIDTH, v_1);
        }
    }
    if (streamed)
        _mm_sfence();
    return i;
}

EACH void walk(Kind kind, int streamed, float *w, float *v, size_t elements, const Update *updates, size_t count)
{
    for (size_t i = vectors(kind, streamed, w, v, elements, updates, count); i < elements; i++)
        for (size_t k = 0; k < count; k++) {
            const Update *u = updates + k;
            __m256 w_1 = _mm256_set1_ps(w[i]), v_1 = _mm256_set1_ps(kind == SGD ? 0.0f : v[i]);
            step(kind, u, _mm256_set1_ps(u->g[i]), &w_1, &v_1);
            w[i] = _mm256_cvtss_f32(w_1);
            if (kind != SGD)
                v[i] = _mm256_cvtss_f32(v_1);
            if (u->out)
                u->out[i] = w[i];
        }
}

AVX2 static void update(Kind kind, float *w, float *v, size_t elements, const Update *updates, size_t count)
{
    int streamed = elements * sizeof(float) >= STREAMED_BYTES;
    for (size_t k = 0; k < count; k++)
        streamed &= (uintptr_t)updates[k].out % sizeof(__m256) == 0;
    switch (kind) { /* each a loop of its own */
    case SGD:
        streamed ? walk(SGD, 1, w, v, elements, updates, count) : walk(SGD, 0, w, v, elements, updates, count);
        break;
    case MOMENTUM:
        streamed ? walk(MOMENTUM, 1, w, v, elements, updates, count) : walk(MOMENTUM, 0, w, v, elements, updates, count);
        break;
    default:
        streamed ? walk(NESTEROV, 1, w, v, elements, updates, count) : walk(NESTEROV, 0, w, v, elements, updates, count);
    }
}

PyDoc_STRVAR(update_doc,
             "update(kind, w, v, elements, updates)\n\n"
             "kind: 0 sgd, 1 momentum, 2 nesterov. w, v: addresses of float32; v is 0 for sgd.\n"
             "updates: a tuple of (mu, alpha, lambda, address of g, address of the copy or 0).");

static PyObject *py_update(PyObject *module, PyObject *args)
{
    int kind;
    unsigned long long w, v, elements;
    PyObject *given;
    if (!PyArg_ParseTuple(args, "iKKKO!", &kind, &w, &v, &elements, &PyTuple_Type, &given))
        return NULL;
    if (kind < 0 || kind >= KINDS)
        return PyErr_Format(PyExc_ValueError, "kind: got %d, expected 0 to %d", kind, KINDS - 1);
    size_t count = (size_t)PyTuple_GET_SIZE(given);
    Update *updates = PyMem_New(Update, count);
    if (!updates)
        return PyErr_NoMemory();
    for (size_t k = 0; k < count; k++) {
        double mu, alpha, lambda;
        unsigned long long g, out;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(given, k), "dddKK", &mu, &alpha, &lambda, &g, &out)) {
            PyMem_Free(updates);
            return NULL;
        }
        updates[k] = (Update){(float)mu, (float)-alpha, (float)lambda, (const float *)(uintptr_t)g,
                              (float *)(uintptr_t)out};
    }
    Py_BEGIN_ALLOW_THREADS
    update((Kind)kind, (float *)(uintptr_t)w, (float *)(uintptr_t)v, elements, updates, count);
    Py_END_ALLOW_THREADS
    PyMem_Free(updates);
    Py_RETURN_NONE;
}

/* bfloat16 is the upper half of a float32; what the noise carries over into it rounds up. */
AVX2 static void round_up(const uint32_t *restrict g, const uint32_t *restrict noise, size_t period,
                          uint16_t *restrict rounded, size_t elements)
{
    for (; elements; g += period, rounded += period) {
        size_t count = elements < period ? elements : period;
        for (size_t i = 0; i < count; i++)
            rounded[i] = (uint16_t)((g[i] + noise[i]) >> 16);
        elements -= count;
    }
}

PyDoc_STRVAR(bfloat16_doc,
             "bfloat16(g, noise, period, rounded, elements)\n\n"
             "Addresses: g of float32; noise of uint32 below 2**16, period many, used again and again.");

static PyObject *py_bfloat16(PyObject *module, PyObject *args)
{
    unsigned long long g, noise, period, rounded, elements;
    if (!PyArg_ParseTuple(args, "KKKKK", &g, &noise, &period, &rounded, &elements))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    round_up((const uint32_t *)(uintptr_t)g, (const uint32_t *)(uintptr_t)noise, period,
             (uint16_t *)(uintptr_t)rounded, elements);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"update", py_update, METH_VARARGS, update_doc},
    {"bfloat16", py_bfloat16, METH_VARARGS, bfloat16_doc},
    {NULL, NULL, 0, NULL},
};

static int able(PyObject *module)
{
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 0;
    PyErr_SetString(PyExc_ImportError, "this processor has no AVX2 with FMA");
    return -1;
}
#else
static PyMethodDef methods[] = {{NULL, NULL, 0, NULL}};

static int able(PyObject *module)
{
    PyErr_SetString(PyExc_ImportError, "written for x86-64 only");
    return -1;
}
#endif

static PyModuleDef_Slot slots[] = {{Py_mod_exec, able}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "ps._kernel", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&definition); }
