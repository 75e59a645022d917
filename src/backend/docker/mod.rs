//! backend/docker
