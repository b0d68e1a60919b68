//! Headers and MIME read and written without changing bytes nobody asked to change.
