//! Promise: a worker acts on requests at once, and keeps its promises whatever its trainer does.

mod failures;
mod health;
mod lifecycle;
mod machine;
mod networks;
mod outages;
mod requests;
mod running;
mod storage;
