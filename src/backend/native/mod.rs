//! backend/native
