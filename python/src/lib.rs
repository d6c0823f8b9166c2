//! The native part of the Python package: what waits, what copies, and what must be quick. The rest
//! is Python, in `parkline/`.

mod blocking;
mod buffer;
mod codec;
mod encoded;
mod errors;
mod event_loop;
mod message;
mod opened;
mod pauses;
mod queue;
mod signals;
mod transfer;
mod turn;
mod waiting;

use pyo3::prelude::*;

/// How tasks of this process wait: `io_uring`, or `futex` and why.
#[pyfunction]
fn backend() -> (&'static str, Option<String>) {
    match parkline_uring::backend() {
        parkline_uring::Backend::IoUring => ("io_uring", None),
        parkline_uring::Backend::Futex(why) => ("futex", Some(why.to_string())),
    }
}

#[pymodule]
fn _parkline(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<queue::Queue>()?;
    module.add_class::<signals::Event>()?;
    module.add_class::<signals::Semaphore>()?;
    module.add_class::<event_loop::EventLoop>()?;
    module.add_class::<waiting::Wait>()?;
    module.add("PENDING", waiting::pending(module.py()))?;
    module.add_function(wrap_pyfunction!(backend, module)?)?;
    module.add_function(wrap_pyfunction!(turn::_begin_turn, module)?)?;
    module.add_function(wrap_pyfunction!(turn::_turn_is_over, module)?)?;
    module.add_function(wrap_pyfunction!(blocking::_end_blocking_calls, module)?)
}
