//! The native part of the Python package: the waits, the copies, and the calls that must be quick. The
//! rest is Python, in `parkline/`.

mod args;
mod bell;
mod blocking;
mod buffer;
mod codec;
mod encoded;
mod errors;
mod event;
mod event_loop;
mod handle;
mod lease;
mod message;
mod opened;
mod pauses;
mod queue;
mod semaphore;
mod snapshot;
mod transfer;
mod turn;
mod waiter;
mod waiting;

use pyo3::prelude::*;

#[pymodule]
fn _parkline(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<queue::Queue>()?;
    module.add_class::<lease::Lease>()?;
    module.add_class::<lease::DeadLetter>()?;
    module.add_class::<snapshot::Items>()?;
    module.add_class::<event::Event>()?;
    module.add_class::<semaphore::Semaphore>()?;
    module.add_class::<event_loop::EventLoop>()?;
    module.add_class::<waiting::Wait>()?;
    module.add("PENDING", waiting::pending(module.py()))?;
    module.add("AGAIN", waiting::again(module.py()))?;
    module.add_function(wrap_pyfunction!(waiting::backend, module)?)?;
    module.add_function(wrap_pyfunction!(turn::_begin_turn, module)?)?;
    module.add_function(wrap_pyfunction!(turn::_turn_is_over, module)?)?;
    module.add_function(wrap_pyfunction!(blocking::_end_blocking_calls, module)?)
}
