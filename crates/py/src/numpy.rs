//! `megalith._core.NumpyHeap`: an [`attach::SpaceHeap`] as numpy's allocator (NEP 49).
//!
//! numpy is not needed to build this. What its C API says is repeated here: a handler is a capsule that points to [`Handler`], and the
//! function that makes one current is in a table that numpy shows in another capsule. Both have not changed since 1.22, which brought them.
//!
//! Every array keeps the capsule of the handler that allocated it, and with it the heap; it is freed by that one, on whatever thread.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use attach::SpaceHeap;
use pyo3::exceptions::{PyImportError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::attachment::Attachment;

const CAPSULE_NAME: &CStr = c"mem_handler";
const HANDLER_NAME: &[u8] = b"megalith";
const HANDLER_VERSION: u8 = 1;

/// Places in numpy's table (`numpy_api.py`), and the version of its C API that has both.
const GET_FEATURE_VERSION: usize = 211;
const SET_HANDLER: usize = 304;
const FEATURE_VERSION_MIN: c_uint = 0xf;

type FeatureVersion = unsafe extern "C" fn() -> c_uint;
type SetHandler = unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject;

/// `PyDataMem_Handler`.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    context: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

/// What the capsule points to. numpy sees the first field.
#[repr(C)]
struct Owned {
    handler: Handler,
    heap: Arc<SpaceHeap>,
}

/// See the stub.
#[pyclass(frozen, module = "megalith._core")]
pub struct NumpyHeap {
    heap: Arc<SpaceHeap>,
    capsule: Py<PyAny>,
}

#[pymethods]
impl NumpyHeap {
    #[new]
    fn new(
        py: Python<'_>,
        attachment: &Attachment,
        start: u64,
        length: u64,
        kept_max: u64,
    ) -> PyResult<Self> {
        let regions = |n: u64| n.is_multiple_of(heap::REGION_BYTES);
        let space = attachment.inner.start()..=attachment.inner.start() + attachment.inner.bytes();
        let end = start.checked_add(length).filter(|end| space.contains(&start) && space.contains(end));
        if !regions(start) || !regions(length) || length < heap::BYTES_MIN || end.is_none() {
            return Err(PyValueError::new_err("a heap is whole regions of the space, eight at least"));
        }
        let heap = Arc::new(SpaceHeap::new(attachment.inner.clone(), start, length, kept_max));
        let capsule = capsule_of(py, heap.clone())?;
        Ok(Self { heap, capsule })
    }

    #[getter]
    fn handler(&self, py: Python<'_>) -> Py<PyAny> {
        self.capsule.clone_ref(py)
    }

    #[getter]
    fn blocks(&self) -> usize {
        self.heap.blocks()
    }

    fn close(&self) -> bool {
        self.heap.close()
    }

    fn inherit(&self) {
        self.heap.inherit();
    }
}

#[pyfunction]
#[pyo3(signature = (handler, /))]
pub fn set_numpy_handler(py: Python<'_>, handler: Option<Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
    let set = set_handler(py)?;
    let new = handler.as_ref().map_or(ptr::null_mut(), Bound::as_ptr);
    // Not every numpy looks.
    // SAFETY: the GIL is held; `new` is an object there.
    if !new.is_null() && unsafe { ffi::PyCapsule_IsValid(new, CAPSULE_NAME.as_ptr()) } == 0 {
        return Err(PyValueError::new_err("a handler of numpy's memory is a capsule named mem_handler"));
    }
    // SAFETY: the GIL is held; `new` is null or a handler, to which numpy takes a reference. The result is a new one, or null with an exception
    // set.
    unsafe { Bound::from_owned_ptr_or_err(py, set(new)) }.map(Bound::unbind)
}

fn capsule_of(py: Python<'_>, heap: Arc<SpaceHeap>) -> PyResult<Py<PyAny>> {
    let mut name = [0; 127];
    for (to, from) in name.iter_mut().zip(HANDLER_NAME) {
        *to = *from as c_char;
    }
    let context = Arc::as_ptr(&heap).cast_mut().cast();
    let handler = Handler { name, version: HANDLER_VERSION, context, malloc, calloc, realloc, free };
    let owned = Box::into_raw(Box::new(Owned { handler, heap }));
    // SAFETY: the GIL is held; the pointer is not null and the name lives for ever. The result is a new reference, or null with an exception set.
    let capsule = unsafe {
        Bound::from_owned_ptr_or_err(
            py,
            ffi::PyCapsule_New(owned.cast(), CAPSULE_NAME.as_ptr(), Some(drop_owned)),
        )
    };
    if capsule.is_err() {
        // SAFETY: it was made above, and no capsule has it.
        drop(unsafe { Box::from_raw(owned) });
    }
    capsule.map(Bound::unbind)
}

/// The capsule's end: no array and no context has it any more.
unsafe extern "C" fn drop_owned(capsule: *mut ffi::PyObject) {
    // SAFETY: the capsule is one of ours, so it points to a box that nobody else frees.
    unsafe {
        let owned = ffi::PyCapsule_GetPointer(capsule, CAPSULE_NAME.as_ptr());
        drop(Box::from_raw(owned.cast::<Owned>()));
    }
}

/// numpy's `PyDataMem_SetHandler`.
fn set_handler(py: Python<'_>) -> PyResult<SetHandler> {
    let table = py
        .import("numpy._core._multiarray_umath")
        .or_else(|_| py.import("numpy.core._multiarray_umath"))?
        .getattr("_ARRAY_API")?;
    // SAFETY: the GIL is held; if it is no such capsule, the result is null, with an exception set.
    let table = unsafe { ffi::PyCapsule_GetPointer(table.as_ptr(), ptr::null()) }.cast::<*mut c_void>();
    if table.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: every numpy since 1.4 has that function in that place.
    let version = unsafe {
        let version = std::mem::transmute::<*mut c_void, FeatureVersion>(*table.add(GET_FEATURE_VERSION));
        version()
    };
    if version < FEATURE_VERSION_MIN {
        return Err(PyImportError::new_err(
            "this numpy's memory cannot be elsewhere: it must be 1.22 or newer",
        ));
    }
    // SAFETY: a numpy of that version has that function in that place.
    Ok(unsafe { std::mem::transmute::<*mut c_void, SetHandler>(*table.add(SET_HANDLER)) })
}

/// # Safety
/// `context` is that of a handler which is alive: whoever calls holds its capsule.
unsafe fn heap_of<'a>(context: *mut c_void) -> &'a SpaceHeap {
    // SAFETY: the capsule keeps the heap.
    unsafe { &*context.cast::<SpaceHeap>() }
}

unsafe extern "C" fn malloc(context: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: numpy calls with the context of a handler that it holds, here and below.
    unsafe { heap_of(context) }.allocate(bytes, false).cast()
}

unsafe extern "C" fn calloc(context: *mut c_void, elements: usize, bytes: usize) -> *mut c_void {
    let Some(bytes) = elements.checked_mul(bytes) else { return ptr::null_mut() };
    // SAFETY: as above.
    unsafe { heap_of(context) }.allocate(bytes, true).cast()
}

unsafe extern "C" fn realloc(context: *mut c_void, block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: as above; a block that numpy reallocates with this handler came from it, and is used by nobody meanwhile.
    unsafe {
        match block.is_null() {
            true => heap_of(context).allocate(bytes, false).cast(),
            false => heap_of(context).reallocate(block.cast(), bytes).cast(),
        }
    }
}

unsafe extern "C" fn free(context: *mut c_void, block: *mut c_void, _bytes: usize) {
    if !block.is_null() {
        // SAFETY: as above.
        unsafe { heap_of(context) }.free(block.cast());
    }
}

// What numpy's header says, on the computers that there are.
const _: () = assert!(std::mem::offset_of!(Handler, version) == 127 && size_of::<Handler>() == 128 + 5 * 8);
