//! `megalith._core`: what Python needs of the Rust side. No logic here.

mod attachment;
mod numpy;
mod probe;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

static RUNTIME_IMAGE: &[u8] = include_bytes!(env!("MEGALITH_RUNTIME_IMAGE"));

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("PROTOCOL_VERSION", agent::PROTOCOL_VERSION)?;
    module.add_function(wrap_pyfunction!(runtime_image, module)?)?;
    module.add_function(wrap_pyfunction!(serve_agent, module)?)?;
    module.add_function(wrap_pyfunction!(probe_userfaultfd, module)?)?;
    module.add_function(wrap_pyfunction!(attachment::say_when_touched, module)?)?;
    module.add_class::<attachment::Attachment>()?;
    module.add_class::<numpy::NumpyHeap>()?;
    module.add_function(wrap_pyfunction!(numpy::set_numpy_handler, module)?)?;
    Ok(())
}

#[pyfunction]
fn runtime_image(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, RUNTIME_IMAGE)
}

#[pyfunction]
#[pyo3(signature = (*, name, listen, directory, budget, cluster, ready_fd, stop_fd, keys=None, worker=Vec::new()))]
#[allow(clippy::too_many_arguments, reason = "keywords, all of them")]
fn serve_agent(
    py: Python<'_>,
    name: String,
    listen: String,
    directory: PathBuf,
    budget: u64,
    cluster: &str,
    ready_fd: i32,
    stop_fd: i32,
    keys: Option<PathBuf>,
    worker: Vec<String>,
) -> PyResult<()> {
    if ready_fd < 0 || stop_fd < 0 {
        return Err(PyValueError::new_err("ready_fd and stop_fd are open descriptors"));
    }
    let cluster = agent::cluster_id(cluster);
    let config =
        agent::Config { name, listen, directory, budget, cluster, keys, runtime: RUNTIME_IMAGE, worker };
    // SAFETY: the caller keeps both descriptors open during the call.
    let (ready, stop) = unsafe { (BorrowedFd::borrow_raw(ready_fd), BorrowedFd::borrow_raw(stop_fd)) };
    py.detach(|| agent::serve(&config, ready, stop)).map_err(|error| match error {
        agent::AgentError::Budget(_) => PyValueError::new_err(error.to_string()),
        agent::AgentError::Path { .. } | agent::AgentError::InUse(_) => PyOSError::new_err(error.to_string()),
        agent::AgentError::Fabric(_) | agent::AgentError::Keys(_) | agent::AgentError::Descriptor(_) => {
            PyRuntimeError::new_err(error.to_string())
        }
    })
}

#[pyfunction]
fn probe_userfaultfd(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let found = probe::userfaultfd();
    let dict = PyDict::new(py);
    dict.set_item("available", found.available)?;
    dict.set_item("kernel_faults", found.kernel_faults)?;
    dict.set_item("features", found.features)?;
    dict.set_item("needed", client::UFFD_FEATURES)?;
    dict.set_item("error", found.error)?;
    dict.set_item("via", found.via)?;
    Ok(dict)
}
