//! Stories across processes: a real gateway, its real workers, clients over real gRPC, each in a folder and
//! on ports of its own. Every reader's account is checked when it is dropped. Nothing here knows the gateway's inside.

mod access;
mod adoption;
mod alarm_pages;
mod alarms;
mod author;
mod commands;
mod dashboard;
mod demo;
mod ends;
mod evidence;
mod export;
mod harness;
mod hostile;
mod leases;
mod line;
mod logs;
mod manager;
mod nodes;
mod old_pages;
mod operate;
mod policies;
mod pressure;
mod restart;
mod resume;
mod secrets;
mod secure;
mod settings;
mod start;
mod streams;
mod takeover;
mod words;
