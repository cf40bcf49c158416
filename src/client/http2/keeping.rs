//! Keeping a connection: what closes or replaces it while no request needs it.

use std::{
    mem,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    super::life::{LOOKS, Life},
    Http2, Line, SharedConnection,
};

impl<B> Http2<B> {
    /// Drops the connection if it has ended.
    pub(super) fn let_go(&self) {
        let mut line = self.lock();
        let ended = matches!(&*line, Line::Up(connection) if connection.sender.is_closed());
        let old = ended.then(|| mem::replace(&mut *line, Line::Down));
        // The lock is released first, because dropping the connection wakes the requests that it
        // returns.
        drop(line);
        drop(old);
    }

    /// Puts a new connection in the place of the one with this life, if it is still used.
    pub(super) fn replace(&self, life: &Weak<Life>, mut new: SharedConnection<B>) {
        new.used = false;
        let mut line = self.lock();
        let old = match &mut *line {
            Line::Up(old) if Arc::as_ptr(&old.life) == life.as_ptr() => mem::replace(old, new),
            _ => new,
        };
        // As in `let_go`.
        drop(line);
        drop(old);
    }

    /// Gives the connection with this life no further requests.
    pub(super) fn retire(&self, life: *const Life) {
        let mut line = self.lock();
        let is_it = matches!(&*line, Line::Up(old) if Arc::as_ptr(&old.life) == life);
        let old = is_it.then(|| mem::replace(&mut *line, Line::Down));
        // As in `let_go`.
        drop(line);
        drop(old);
    }

    /// Whether the connection with this life has an idle timeout, and has carried nothing since the last
    /// look.
    pub(super) fn is_idle(&self, life: &Weak<Life>) -> bool {
        match &*self.lock() {
            Line::Up(connection) if Arc::as_ptr(&connection.life) == life.as_ptr() => {
                self.tick.is_some() && !connection.used && !connection.life.is_used()
            }
            _ => false,
        }
    }

    /// Looks at the connection with this life, and closes it if it has been idle for too long. Returns
    /// whether to look again.
    pub(super) fn look(&self, life: &Weak<Life>) -> bool {
        let mut line = self.lock();
        let connection = match &mut *line {
            Line::Up(connection) if Arc::as_ptr(&connection.life) == life.as_ptr() => connection,
            _ => return false,
        };
        if mem::take(&mut connection.used) || connection.life.is_used() {
            connection.idle = 0;
        } else {
            connection.idle += 1;
        }
        if connection.idle < LOOKS {
            return true;
        }
        let old = mem::replace(&mut *line, Line::Down);
        drop(line);
        drop(old);
        false
    }
}

/// Looks at a connection until it is closed.
pub(super) async fn tick_on<B>(http2: Weak<Http2<B>>, life: Weak<Life>, tick: Duration) {
    loop {
        tokio::time::sleep(tick).await;
        if !http2.upgrade().is_some_and(|http2| http2.look(&life)) {
            return;
        }
    }
}
