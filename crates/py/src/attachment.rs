//! `megalith._core.Attachment`: a shared space in this process ([`attach::Attachment`]).
//!
//! The GIL is released in every call that waits for the agent. The agent is another process and needs nothing of this interpreter to answer
//! its faults, so a thread that sleeps in one with the GIL held is woken all the same.

use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use attach::AttachError;
use pyo3::exceptions::{PyOSError, PyPermissionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// See the stub.
#[pyclass(frozen, module = "megalith._core")]
pub struct Attachment {
    pub(crate) inner: Arc<attach::Attachment>,
}

#[pymethods]
impl Attachment {
    #[new]
    fn new(py: Python<'_>, client_socket: PathBuf, machine: &str, number: u32) -> PyResult<Self> {
        let machine = u64::from_str_radix(machine, 16)
            .map_err(|_| PyValueError::new_err("a machine's id is hexadecimal digits"))?;
        let opened = py.detach(|| attach::Attachment::open(&client_socket, machine, number));
        opened.map(|inner| Self { inner: Arc::new(inner) }).map_err(|error| match error {
            AttachError::Userfaultfd(_) => PyPermissionError::new_err(error.to_string()),
            _ => PyOSError::new_err(error.to_string()),
        })
    }

    #[getter]
    fn number(&self) -> u32 {
        self.inner.number()
    }

    #[getter]
    fn base(&self) -> u64 {
        self.inner.start()
    }

    #[getter]
    fn size(&self) -> u64 {
        self.inner.bytes()
    }

    #[getter]
    fn hosts(&self) -> u64 {
        self.inner.hosts()
    }

    #[getter]
    fn pid(&self) -> u32 {
        self.inner.process()
    }

    #[getter]
    fn is_open(&self) -> bool {
        self.inner.is_open()
    }

    fn discard(&self, py: Python<'_>, address: u64, length: u64) -> PyResult<()> {
        py.detach(|| self.inner.discard(address, length)).map_err(os_error)
    }

    fn start_worker(&self, py: Python<'_>, host: u64) -> PyResult<i32> {
        py.detach(|| self.inner.start_worker(host)).map(IntoRawFd::into_raw_fd).map_err(os_error)
    }

    fn held<'py>(&self, py: Python<'py>, address: u64, length: u64) -> PyResult<Bound<'py, PyBytes>> {
        let found = py.detach(|| self.inner.held(address, length)).map_err(os_error)?;
        Ok(PyBytes::new(py, &found))
    }

    fn touch(&self, py: Python<'_>, address: u64, length: u64, write: bool) -> PyResult<u64> {
        let mut raised = Ok(());
        let touched = py.detach(|| {
            self.inner.touch(address, length, write, || {
                raised = Python::attach(|py| py.check_signals());
                raised.is_err()
            })
        });
        raised.and(touched.map_err(os_error))
    }

    fn load(&self, py: Python<'_>, address: u64) -> PyResult<u64> {
        py.detach(|| self.inner.load(address)).map_err(os_error)
    }

    fn store(&self, py: Python<'_>, address: u64, value: u64) -> PyResult<()> {
        py.detach(|| self.inner.store(address, value)).map_err(os_error)
    }

    fn fetch_add(&self, py: Python<'_>, address: u64, more: u64) -> PyResult<u64> {
        py.detach(|| self.inner.fetch_add(address, more)).map_err(os_error)
    }

    fn compare_exchange(&self, py: Python<'_>, address: u64, current: u64, new: u64) -> PyResult<u64> {
        py.detach(|| self.inner.compare_exchange(address, current, new)).map_err(os_error)
    }

    fn hang_up(&self) {
        self.inner.hang_up();
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
    }
}

#[pyfunction]
pub fn say_when_touched() -> PyResult<()> {
    attach::say_when_touched().map_err(os_error)
}

/// With its errno, from which Python makes the right kind of OSError.
fn os_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(errno) => PyOSError::new_err((errno, error.to_string())),
        None => PyOSError::new_err(error.to_string()),
    }
}
