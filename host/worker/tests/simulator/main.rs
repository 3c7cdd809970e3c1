//! Stories of one simulator and one gateway over a real socket, within one process. Each reads as what a client
//! would do and see; the harness checks on the way that epochs, counts and sequences of every frame are right.
#![cfg(unix)]

mod bulk;
mod faults;
mod harness;
mod life;
mod load;
mod replay;
mod stories;
mod tail;
