/* Agenda: that of cluster/agenda.py, compiled. A simulation spends a tenth of its time in the other one. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

typedef struct {
    double time;
    long long rank; /* priority, then sequence */
    PyObject *action, *argument;
} Event;

typedef struct {
    PyObject_HEAD
    Event *events; /* a heap: none before its parent, which is at (i - 1) / 2 */
    Py_ssize_t count, room;
    long long sequence;
    char stopped;
    double time;
    PyObject *now; /* the same as a Python float */
} Agenda;

enum { PRIORITY_BITS = 8, SEQUENCE_BITS = 62 - PRIORITY_BITS };

static inline int before(const Event *a, const Event *b)
{
    return a->time < b->time || (a->time == b->time && a->rank < b->rank);
}

static int put(Agenda *self, Event event)
{
    if (self->count == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : 64;
        Event *events = PyMem_Resize(self->events, Event, room);
        if (!events) {
            PyErr_NoMemory();
            return -1;
        }
        self->events = events;
        self->room = room;
    }
    Py_ssize_t i = self->count++;
    while (i && before(&event, &self->events[(i - 1) / 2])) {
        self->events[i] = self->events[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    self->events[i] = event;
    return 0;
}

static Event take(Agenda *self)
{
    Event *events = self->events, first = events[0], last = events[--self->count];
    Py_ssize_t i = 0, count = self->count;
    for (Py_ssize_t child = 1; child < count; child = 2 * i + 1) {
        if (child + 1 < count && before(&events[child + 1], &events[child]))
            child++;
        if (!before(&events[child], &last))
            break;
        events[i] = events[child];
        i = child;
    }
    events[i] = last;
    return first;
}

static PyObject *after(Agenda *self, PyObject *const *args, Py_ssize_t given)
{
    if (given < 3 || given > 4)
        return PyErr_Format(PyExc_TypeError, "after: got %zd arguments, expected 3 or 4", given);
    double seconds = PyFloat_AsDouble(args[0]);
    long priority = given == 4 ? PyLong_AsLong(args[3]) : 0;
    if (PyErr_Occurred())
        return NULL;
    if (priority < 0 || priority >> PRIORITY_BITS)
        return PyErr_Format(PyExc_ValueError, "after: got priority %ld, expected 0 to %d", priority, (1 << PRIORITY_BITS) - 1);
    long long rank = ((long long)priority << SEQUENCE_BITS) + ++self->sequence;
    if (put(self, (Event){self->time + seconds, rank, args[1], args[2]}))
        return NULL;
    Py_INCREF(args[1]);
    Py_INCREF(args[2]);
    Py_RETURN_NONE;
}

static PyObject *run(Agenda *self, PyObject *most)
{
    Py_ssize_t left = PyLong_AsSsize_t(most);
    if (left == -1 && PyErr_Occurred())
        return NULL;
    for (; left > 0; left--) {
        if (self->stopped || !self->count)
            Py_RETURN_FALSE;
        PyObject *now = PyFloat_FromDouble(self->events[0].time);
        if (!now)
            return NULL;
        Event event = take(self);
        self->time = event.time;
        Py_SETREF(self->now, now);
        PyObject *result = PyObject_CallOneArg(event.action, event.argument);
        Py_DECREF(event.action);
        Py_DECREF(event.argument);
        if (!result)
            return NULL;
        Py_DECREF(result);
    }
    Py_RETURN_TRUE;
}

static PyObject *stop(Agenda *self, PyObject *Py_UNUSED(none))
{
    self->stopped = 1;
    Py_RETURN_NONE;
}

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    if (PyTuple_GET_SIZE(args) || (named && PyDict_GET_SIZE(named)))
        return PyErr_Format(PyExc_TypeError, "Agenda takes no arguments");
    Agenda *self = (Agenda *)type->tp_alloc(type, 0);
    if (self && !(self->now = PyFloat_FromDouble(0.0)))
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int traverse(Agenda *self, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_VISIT(self->events[i].action);
        Py_VISIT(self->events[i].argument);
    }
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear(Agenda *self)
{
    while (self->count) {
        Event event = self->events[--self->count];
        Py_DECREF(event.action);
        Py_DECREF(event.argument);
    }
    return 0;
}

static void dealloc(Agenda *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    PyMem_Free(self->events);
    Py_XDECREF(self->now);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"after", (PyCFunction)(void (*)(void))after, METH_FASTCALL, "after(seconds, action, argument, priority=0)"},
    {"run", (PyCFunction)run, METH_O, "run(most)"},
    {"stop", (PyCFunction)stop, METH_NOARGS, "stop()"},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"now", T_OBJECT_EX, offsetof(Agenda, now), READONLY, "Virtual seconds since the beginning."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_new, new},         {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse}, {Py_tp_clear, clear},
    {Py_tp_methods, methods}, {Py_tp_members, members}, {0, NULL},
};

static PyType_Spec spec = {"cluster._agenda.Agenda", sizeof(Agenda), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, type_slots};

static int fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    if (!type)
        return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "cluster._agenda", .m_slots = slots};

PyMODINIT_FUNC PyInit__agenda(void) { return PyModuleDef_Init(&definition); }
